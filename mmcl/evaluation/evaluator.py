"""What all evaluators share: their protocol, and how they get the embeddings of a data set's images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.checks import check_finite_rows
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.batch import SkippedRow
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

log = get_logger(__name__)

# Metric names to a number, or to [low, high] for the names that end in _ci95.
Metrics = dict[str, "float | list[float]"]


class Evaluator(Protocol):
    """Judges an embedder; ``primary_metric`` is the one that picks the best checkpoint, higher being better."""

    primary_metric: str

    def __call__(self, embedder: Embedder) -> Metrics: ...


def need_both_modalities(embedder: Embedder, task: str) -> None:
    """Refuse an embedder that lacks images or texts.

    Raises:
        ConfigError: names what is missing.
    """
    missing = sorted({"image", "text"} - set(embedder.modalities))
    if missing:
        raise ConfigError(
            f"{task} compares images with texts; this model embeds {sorted(embedder.modalities)} and lacks "
            f"{', '.join(missing)}"
        )


def image_embeddings(
    embedder: Embedder, dataset: ImageTextDataset, *, batch_size: int
) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
    """Embed every readable image of a data set; unreadable ones are logged and left out.

    Args:
        embedder: any.
        dataset: any.
        batch_size: images a forward pass.

    Returns:
        (n, d) float32 finite embeddings, their (n,) row numbers, and the rows that were skipped.

    Raises:
        DataError: no image is readable, or the data set is empty.
        ShapeError: an embedding is not finite.
    """
    from mmcl.embedder import embed_images

    if not len(dataset):
        raise DataError(f"{dataset.name} has no rows to evaluate on; name another split or file")
    embeddings, rows, skipped = embed_images(embedder, dataset, batch_size=batch_size)
    if skipped:
        first = skipped[0]
        log.warning(
            "%s: %d of %d images are unreadable and left out, the first: %s (%s)",
            dataset.name,
            len(skipped),
            len(dataset),
            first.source,
            first.reason,
        )
    if not len(rows):
        raise DataError(f"{dataset.name}: none of its {len(dataset)} images could be read; see the first: {skipped[0]}")
    return check_finite_rows("image embeddings", embeddings), np.asarray(rows, dtype=np.int64), skipped


def text_embeddings(embedder: Embedder, texts: Sequence[str], *, batch_size: int) -> tuple[Tensor, list[int]]:
    """Embed texts, each distinct one once, so that equal texts have equal embeddings, bit for bit.

    Args:
        embedder: any.
        texts: n texts, repeats allowed.
        batch_size: texts a forward pass.

    Returns:
        (u, d) float32 finite embeddings of the distinct texts, and n indices into them.

    Raises:
        ShapeError: an embedding is not finite.
    """
    position = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    embeddings = check_finite_rows("text embeddings", embedder.encode_text(list(position), batch_size=batch_size))
    return embeddings, [position[text] for text in texts]
