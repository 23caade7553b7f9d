"""`FoilEvaluator`: the right caption against the same caption with one word exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mmcl.errors import DataError
from mmcl.evaluation.bootstrap import bootstrap_means, ci95
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities, text_embeddings

if TYPE_CHECKING:
    import numpy as np

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

_RESERVED = {"mean", "chance", "num_images", "num_skipped"}


class FoilEvaluator:
    """Two-way choices: how often an image is nearer to its caption than to the caption's foil; a tie is wrong.

    Args:
        dataset: with a column ``foils``: a row's list of ``{kind, caption, foil}``. Rows without any are left out.
        batch_size: items a forward pass.

    Raises:
        DataError: there is no foil, one lacks its kind, caption or foil, or a kind's name is one of the metrics'.

    Source:
        Shekhar et al. 2017, "FOIL it! Find One mismatch between Image and Language caption"; Yuksekgonul et al. 2023,
        "When and why vision-language models behave like bags-of-words, and what to do about it?" (ARO).
    """

    primary_metric = "foils/mean"

    def __init__(self, dataset: ImageTextDataset, *, batch_size: int = 64) -> None:
        foils = [cell or [] for cell in dataset.column("foils")]
        for row, cell in enumerate(foils):
            for foil in cell:
                if not (foil["kind"] and foil["caption"] and foil["foil"]):
                    raise DataError(f"{dataset.name} row {row}: a foil needs kind, caption and foil, got {foil}")
                if foil["kind"] in _RESERVED:
                    raise DataError(f"{dataset.name} row {row}: a foil's kind cannot be called {foil['kind']!r}")
        rows = [row for row, cell in enumerate(foils) if cell]
        if not rows:
            raise DataError(f"{dataset.name}: no row has foils; the column 'foils' is empty")
        self.dataset = dataset.select(rows)
        self.batch_size = batch_size

    def __call__(self, embedder: Embedder) -> Metrics:
        """Score every readable image against its captions and their foils.

        Args:
            embedder: of images and texts.

        Returns:
            ``foils/<kind>`` in [0, 1] with ``foils/<kind>_ci95`` and ``foils/<kind>_count``; ``foils/mean`` over the
            kinds, each weighing the same; ``foils/chance`` = 0.5, ``foils/num_images``, ``foils/num_skipped``.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no image is readable.
            ShapeError: an embedding is not finite.
        """
        need_both_modalities(embedder, "the choice against foils")
        images, rows, skipped = image_embeddings(embedder, self.dataset, batch_size=self.batch_size)
        position, kinds, captions, foils = self._choices(rows)
        texts, index = text_embeddings(embedder, captions + foils, batch_size=self.batch_size)
        image = images[position]  # (f, d)
        right, wrong = texts[torch.tensor(index)].chunk(2)
        # The same operation on both, so that equal embeddings tie exactly.
        correct = ((image * right).sum(1) > (image * wrong).sum(1)).double()
        groups = self.dataset.group_ids()[torch.from_numpy(rows)][position]

        metrics: Metrics = {}
        shares = []
        for kind in dict.fromkeys(kinds):
            mine = torch.tensor([other == kind for other in kinds])
            shares.append(float(correct[mine].mean()))
            metrics[f"foils/{kind}"] = shares[-1]
            metrics[f"foils/{kind}_ci95"] = ci95(bootstrap_means(correct[mine, None], groups[mine])[:, 0])
            metrics[f"foils/{kind}_count"] = float(mine.sum())
        metrics["foils/mean"] = sum(shares) / len(shares)
        metrics["foils/chance"] = 0.5
        metrics["foils/num_images"] = float(len(images))
        metrics["foils/num_skipped"] = float(len(skipped))
        return metrics

    def _choices(self, rows: np.ndarray) -> tuple[torch.Tensor, list[str], list[str], list[str]]:
        """One entry a choice: the image's position in ``rows`` (f,), the kind, the caption and the foil."""
        column = self.dataset.column("foils")
        flat = [(position, foil) for position, row in enumerate(rows.tolist()) for foil in column[row]]
        return (
            torch.tensor([position for position, _ in flat], dtype=torch.int64),
            [foil["kind"] for _, foil in flat],
            [foil["caption"] for _, foil in flat],
            [foil["foil"] for _, foil in flat],
        )
