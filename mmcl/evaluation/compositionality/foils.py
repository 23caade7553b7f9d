"""`FoilEvaluator`: the right caption against false ones that differ in a word, or against hard negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.errors import DataError
from mmcl.evaluation.bootstrap import mean_ci95
from mmcl.evaluation.compositionality.caption_swaps import make_foils
from mmcl.evaluation.evaluator import Metrics, image_embeddings, need_both_modalities, text_embeddings

if TYPE_CHECKING:
    import numpy as np

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

_RESERVED = {"mean", "chance", "num_images", "num_skipped", "num_dropped", "negatives", "negatives_pairwise"}


class FoilEvaluator:
    """The right caption against false ones: how often an image is nearer to the right one; a tie is wrong.

    Foils are two-way choices, a caption against the same caption with one thing exchanged. Negatives are a row's list
    of hard captions: the image must be nearer to its caption than to all of them. Scores over pairs of pictures that
    share all words (Winoground's image and group score) are not computed; its text score is two such choices at once.

    Args:
        dataset: with a column ``foils``, a row's list of ``{kind, caption, foil}``, or a column ``negatives``, a row's
            list of false captions, which stand against each of its true ones. Rows without any are left out.
        batch_size: items a forward pass.
        negatives: whether the column ``negatives`` is judged. None: where there are no foils.
        generate: make foils of the captions by rule, in the place of the column (`swap_caption`: English, kinds
            ``attribute``, ``count``, ``relation``, ``swap``).

    Raises:
        DataError: there is nothing to judge, a foil lacks its kind, caption or foil, or a kind's name is one of the
            metrics'.

    Source:
        Shekhar et al. 2017, "FOIL it! Find One mismatch between Image and Language caption"; Yuksekgonul et al. 2023,
        "When and why vision-language models behave like bags-of-words, and what to do about it?" (ARO, and NegCLIP's
        lists of negatives); Thrush et al. 2022, "Winoground", equation 1.
    """

    primary_metric = "foils/mean"

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        batch_size: int = 64,
        negatives: bool | None = None,
        generate: bool = False,
    ) -> None:
        self._dropped: int | None = None
        if not (generate or dataset.has("foils") or dataset.has("negatives")):
            raise DataError(
                f"{dataset.name} has neither foils nor negatives; name such a column, or let rules make false "
                f"captions of English ones: generate=True, or --generate"
            )
        if negatives is None:
            negatives = dataset.has("negatives") and not (dataset.has("foils") or generate)
        if generate:
            foils, self._dropped = make_foils(dataset)
        elif negatives and not dataset.has("foils"):
            foils = [[] for _ in range(len(dataset))]
        else:
            foils = [cell or [] for cell in dataset.column("foils")]
        _check_foils(foils, dataset.name)
        hard = [[] for _ in range(len(dataset))]
        if negatives:
            hard, dropped = _hard_captions(dataset)
            self._dropped = dropped + (self._dropped or 0)
        rows = [row for row in range(len(dataset)) if foils[row] or hard[row]]
        if not rows:
            looked = "no caption holds a word that the rules exchange" if generate else "the column 'foils' is empty"
            raise DataError(f"{dataset.name}: no row has foils; {looked}")
        self.dataset = dataset.select(rows)
        self.batch_size = batch_size
        self._foils = [foils[row] for row in rows]
        self._negatives = [hard[row] for row in rows]

    def __call__(self, embedder: Embedder) -> Metrics:
        """Score every readable image against its captions and their foils.

        Args:
            embedder: of images and texts.

        Returns:
            ``foils/<kind>`` in [0, 1] with ``foils/<kind>_ci95`` and ``foils/<kind>_count``; ``foils/mean`` over the
            kinds, each weighing the same; ``foils/chance`` = 0.5, ``foils/num_images``, ``foils/num_skipped``. With
            negatives: ``foils/negatives`` (right against all of them), ``foils/negatives_chance`` (the mean of
            1 / (1 + n) over captions with n negatives), ``foils/negatives_pairwise`` (the mean share that a caption
            beats; it is ``foils/mean`` where there are no foils), ``foils/negatives_count`` of captions. With negatives
            or ``generate``: ``foils/num_dropped``, false captions left out because they equal one of the group's.

        Raises:
            ConfigError: the embedder lacks images or texts.
            DataError: no image is readable.
            ShapeError: an embedding is not finite.
        """
        need_both_modalities(embedder, "the choice against foils")
        images, rows, skipped = image_embeddings(embedder, self.dataset, batch_size=self.batch_size)
        groups = self.dataset.group_ids()[torch.from_numpy(rows)]
        metrics: Metrics = {}
        foils = [(position, foil) for position, row in enumerate(rows.tolist()) for foil in self._foils[row]]
        if foils:
            metrics |= self._two_way(embedder, images, groups, foils)
        if any(self._negatives):
            metrics |= self._against_all(embedder, images, groups, rows)
            metrics.setdefault("foils/mean", metrics["foils/negatives_pairwise"])
        if "foils/mean" not in metrics:
            raise DataError(f"{self.dataset.name}: none of the images that have foils could be read")
        metrics["foils/chance"] = 0.5
        metrics["foils/num_images"] = float(len(images))
        metrics["foils/num_skipped"] = float(len(skipped))
        if self._dropped is not None:
            metrics["foils/num_dropped"] = float(self._dropped)
        return metrics

    def _two_way(
        self, embedder: Embedder, images: Tensor, groups: Tensor, foils: Sequence[tuple[int, Mapping[str, str]]]
    ) -> Metrics:
        """Captions against foils; each foil with the position of its image."""
        position = torch.tensor([position for position, _ in foils])
        kinds = [foil["kind"] for _, foil in foils]
        captions, false = [foil["caption"] for _, foil in foils], [foil["foil"] for _, foil in foils]
        right, wrong = self._scores(embedder, images[position].repeat(2, 1), captions + false).chunk(2)
        correct, groups = (right > wrong).double(), groups[position]
        metrics: Metrics = {}
        shares = []
        for kind in dict.fromkeys(kinds):
            mine = torch.tensor([other == kind for other in kinds])
            shares.append(float(correct[mine].mean()))
            metrics |= _with_interval(f"foils/{kind}", correct[mine], groups[mine])
            metrics[f"foils/{kind}_count"] = float(mine.sum())
        metrics["foils/mean"] = sum(shares) / len(shares)
        return metrics

    def _against_all(self, embedder: Embedder, images: Tensor, groups: Tensor, rows: np.ndarray) -> Metrics:
        """Every caption against all negatives of its row."""
        column = self.dataset.column("texts")
        choices = [(p, text) for p, row in enumerate(rows.tolist()) if self._negatives[row] for text in column[row]]
        negatives = [self._negatives[rows[position]] for position, _ in choices]
        if not choices:
            return {}
        position = torch.tensor([position for position, _ in choices])
        counts = torch.tensor([len(some) for some in negatives])
        owner = torch.repeat_interleave(counts)  # (p,): the choice that each negative stands in
        texts = [text for _, text in choices] + [text for some in negatives for text in some]
        scores = self._scores(embedder, images[torch.cat([position, position[owner]])], texts)
        right, wrong = scores[: len(choices)], scores[len(choices) :]
        beaten = torch.zeros(len(choices), dtype=torch.float64).index_add_(0, owner, (right[owner] > wrong).double())
        groups = groups[position]
        return {
            **_with_interval("foils/negatives", (beaten == counts).double(), groups),
            **_with_interval("foils/negatives_pairwise", beaten / counts, groups),
            "foils/negatives_chance": float((1.0 / (1 + counts.double())).mean()),
            "foils/negatives_count": float(len(choices)),
        }

    def _scores(self, embedder: Embedder, images: Tensor, texts: list[str]) -> Tensor:
        """Each image's score for the text of its row, one operation for all, so that equal embeddings tie exactly."""
        distinct, index = text_embeddings(embedder, texts, batch_size=self.batch_size)
        return (images * distinct[torch.tensor(index)]).sum(1)


def _check_foils(cells: Sequence[Sequence[Mapping[str, str]]], name: str) -> None:
    for row, cell in enumerate(cells):
        for foil in cell:
            if not (foil["kind"] and foil["caption"] and foil["foil"]):
                raise DataError(f"{name} row {row}: a foil needs kind, caption and foil, got {foil}")
            if foil["kind"] in _RESERVED:
                raise DataError(f"{name} row {row}: a foil's kind cannot be called {foil['kind']!r}")


def _hard_captions(dataset: ImageTextDataset) -> tuple[list[list[str]], int]:
    """The column ``negatives``, each caption once, without those that are true of the row's group; how many went."""
    groups = dataset.group_ids().tolist()
    said: dict[int, set[str]] = {}
    for group, texts in zip(groups, dataset.column("texts")):
        said.setdefault(group, set()).update(texts)
    cells, dropped = [], 0
    for group, cell in zip(groups, dataset.column("negatives")):
        distinct = list(dict.fromkeys(text for text in cell or [] if text))
        cells.append([text for text in distinct if text not in said[group]])
        dropped += len(distinct) - len(cells[-1])
    return cells, dropped


def _with_interval(name: str, values: Tensor, groups: Tensor) -> Metrics:
    """A mean over choices (c,) and its interval."""
    return {name: float(values.mean()), f"{name}_ci95": mean_ci95(values, groups)}
