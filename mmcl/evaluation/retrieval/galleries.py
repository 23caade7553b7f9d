"""`Galleries`: the embedded images and distinct captions of a data set, and which of them belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.evaluation.evaluator import image_embeddings, need_both_modalities, text_embeddings

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder


@dataclass(frozen=True)
class Galleries:
    """What retrieval ranks: n images and m captions, identical captions of one group standing once.

    Attributes:
        images: (n, d) float32.
        rows: (n,) int64, the images' row numbers in the data set.
        image_groups: (n,) int64.
        texts: (m, d) float32; equal captions have equal rows, bit for bit.
        captions: the m captions.
        text_rows: (m,) int64 positions in ``rows`` where each caption stood first.
        text_groups: (m,) int64.
        num_skipped: images that could not be read.
    """

    images: Tensor
    rows: np.ndarray
    image_groups: Tensor
    texts: Tensor
    captions: list[str]
    text_rows: Tensor
    text_groups: Tensor
    num_skipped: int

    def select(self, kept: Sequence[int] | np.ndarray, dataset: ImageTextDataset) -> Galleries:
        """The galleries of some of the images, and of the captions that they have.

        Args:
            kept: positions in ``rows``, in the wanted order.
            dataset: whose rows they are.
        """
        index = torch.from_numpy(np.asarray(kept, dtype=np.int64))
        rows, groups = self.rows[index.numpy()], self.image_groups[index]
        captions, text_rows = distinct_captions(dataset, rows, groups)
        position = {caption: place for place, caption in enumerate(self.captions)}
        place = torch.tensor([position[caption] for caption in captions], dtype=torch.int64)
        return Galleries(
            images=self.images[index],
            rows=rows,
            image_groups=groups,
            texts=self.texts[place],
            captions=captions,
            text_rows=text_rows,
            text_groups=groups[text_rows],
            num_skipped=self.num_skipped,
        )


def embed_galleries(embedder: Embedder, dataset: ImageTextDataset, *, batch_size: int) -> Galleries:
    """Embed every readable image of a data set and the distinct captions of those rows.

    Args:
        embedder: of images and texts.
        dataset: any.
        batch_size: items a forward pass.

    Raises:
        ConfigError: the embedder lacks images or texts.
        DataError: no image is readable.
        ShapeError: an embedding is not finite.
    """
    need_both_modalities(embedder, "retrieval")
    images, rows, skipped = image_embeddings(embedder, dataset, batch_size=batch_size)
    groups = dataset.group_ids()[torch.from_numpy(rows)]
    return add_captions(
        embedder, dataset.column("texts"), images, rows, groups, num_skipped=len(skipped), batch_size=batch_size
    )


def add_captions(
    embedder: Embedder,
    texts_of_rows: Sequence[Sequence[str]],
    images: Tensor,
    rows: np.ndarray,
    groups: Tensor,
    *,
    num_skipped: int,
    batch_size: int,
) -> Galleries:
    """Embed the distinct captions of images that are embedded already.

    Args:
        embedder: of texts.
        texts_of_rows: the captions of every row of the data set.
        images: (n, d) float32.
        rows: (n,) their row numbers.
        groups: (n,) int64, the group of each.
        num_skipped: images that could not be read, for the result.
        batch_size: texts a forward pass.
    """
    captions, text_rows = distinct_texts(texts_of_rows, rows, groups)
    distinct, index = text_embeddings(embedder, captions, batch_size=batch_size)
    return Galleries(
        images=images,
        rows=rows,
        image_groups=groups,
        texts=distinct if len(distinct) == len(captions) else distinct[torch.tensor(index)],
        captions=captions,
        text_rows=text_rows,
        text_groups=groups[text_rows],
        num_skipped=num_skipped,
    )


def distinct_captions(dataset: ImageTextDataset, rows: np.ndarray, groups: Tensor) -> tuple[list[str], Tensor]:
    """The text gallery of a data set: `distinct_texts` of its column ``texts``.

    Args:
        dataset: whose captions they are.
        rows: (n,) row numbers.
        groups: (n,) int64, the group of each.

    Returns:
        m captions, and (m,) int64 positions in ``rows`` where each stood first.
    """
    return distinct_texts(dataset.column("texts"), rows, groups)


def distinct_texts(
    texts_of_rows: Sequence[Sequence[str]], rows: np.ndarray, groups: Tensor
) -> tuple[list[str], Tensor]:
    """Every caption of ``rows``, identical captions of one group once.

    Args:
        texts_of_rows: the captions of every row of the data set.
        rows: (n,) row numbers.
        groups: (n,) int64, the group of each.

    Returns:
        m captions, and (m,) int64 positions in ``rows`` where each stood first.
    """
    first: dict[tuple[int, str], int] = {}
    for position, (row, group) in enumerate(zip(rows.tolist(), groups.tolist())):
        for caption in texts_of_rows[row]:
            first.setdefault((group, caption), position)
    return [caption for _, caption in first], torch.tensor(list(first.values()), dtype=torch.int64)
