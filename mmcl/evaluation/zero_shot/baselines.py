"""What a classifier's figures are without a trained model: chance, the majority class, random weights, raw pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import DataError
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.zero_shot.class_metrics import classification_metrics
from mmcl.evaluation.zero_shot.raw_pixels import MAX_FIT_ROWS, fit_raw_linear, raw_pixels, sample_rows

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

# Random weights are chance, give or take: a sample of the images shows it.
MAX_RANDOM_ROWS = 2_000

# How notes name the baseline that is fitted.
RAW = "linear model on raw pixels"


@dataclass(frozen=True)
class Baselines:
    """Figures of baselines, and why some are missing.

    Attributes:
        figures: {baseline: {figure: value}}, such as ``{"chance": {"top1": 0.1}}``.
        notes: one sentence a baseline that is missing, or that was computed on a sample.
    """

    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __or__(self, other: Baselines) -> Baselines:
        """Both together."""
        return Baselines({**self.figures, **other.figures}, self.notes + other.notes)

    def metrics(self, task: str) -> Metrics:
        """``<task>/<baseline>_<figure>`` to its value."""
        return {
            f"{task}/{baseline}_{figure}": value
            for baseline, figures in self.figures.items()
            for figure, value in figures.items()
        }


def answer_figures(labels: Tensor, num_classes: int) -> Baselines:
    """What two ways of answering without a look at the image score.

    ``chance`` answers with a class at random: its figures are those expected of very many rows with these shares of
    classes. ``majority`` answers every row with the largest class, and ranks classes by how many rows they have.

    Args:
        labels: (n,) integer in [0, c), n at least 1.
        num_classes: c.

    Returns:
        Figures by the names of `classification_metrics`, without the calibration error, which these have none of.

    Example:
        >>> answer_figures(torch.tensor([0, 0, 0, 1]), 2).figures["majority"]["top1"]
        0.75
    """
    share = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    occurring, largest = share[share > 0], share.max()
    recall, precision = 1.0 / num_classes, float(occurring.mean())
    f1 = 2.0 * share / (share * num_classes + 1.0)
    chance = {
        "top1": recall,
        "top5": min(5, num_classes) / num_classes,
        **_macro(recall, precision, float(f1[share > 0].mean()), float((share * f1).sum())),
    }
    alone = float(2.0 * largest / (1.0 + largest))
    majority = {
        "top1": float(largest),
        "top5": float(share.topk(min(5, num_classes)).values.sum()),
        **_macro(precision, float(largest) * precision, alone * precision, float(largest) * alone),
    }
    return Baselines({"chance": chance, "majority": majority})


def _macro(recall: float, precision: float, f1: float, weighted: float) -> dict[str, float]:
    """The figures over classes; whoever does not look at the image orders rows at random, under an area of a half."""
    names = ("mean_per_class", "precision_macro", "recall_macro", "f1_macro", "f1_weighted", "roc_auc_macro")
    return dict(zip(names, (recall, precision, recall, f1, weighted, 0.5)))


def random_figures(
    embedder: Embedder, judge: Callable[[Embedder, np.ndarray], dict[str, float]], *, num_rows: int, seed: int = 0
) -> Baselines:
    """The figures of the same architecture with random weights, on at most ``MAX_RANDOM_ROWS`` images.

    Args:
        embedder: whose architecture is taken.
        judge: the figures of an embedder on some of the judged rows, which are given by their positions.
        num_rows: that were judged.
        seed: of the weights and of the sample.

    Returns:
        ``random_weights``, with ``num_images``; a note alone where the model cannot be built anew.
    """
    from mmcl.embedder import untrained

    other = untrained(embedder, seed=seed)
    if other is None:
        return Baselines(notes=("random weights: this model cannot be built anew with random weights.",))
    chosen = sample_rows(num_rows, MAX_RANDOM_ROWS, seed=seed)
    figures = {**judge(other, chosen), "num_images": float(len(chosen))}
    sampled = f"random weights: judged on a sample of {len(chosen):,} of {num_rows:,} images."
    return Baselines({"random_weights": figures}, (sampled,) if len(chosen) < num_rows else ())


def why_not_fitted(train: ImageTextDataset | None, judged: ImageTextDataset) -> str:
    """Why nothing can be fitted on a training split, in a sentence; empty where something can.

    Args:
        train: None: there is none.
        judged: what the fitted model would be judged on.
    """
    if train is None:
        return f"{RAW}: no training split was given or found."
    if train.fingerprint() == judged.fingerprint():
        return f"{RAW}: {train.name} is what is judged; a model fitted on it would know the answers."
    return ""


def fitted_figures(
    train: ImageTextDataset | None, judged: ImageTextDataset, labels: Tensor, classes: Sequence[str]
) -> Baselines:
    """The figures of logistic regression on raw pixels, fitted on a training split.

    Args:
        train: with a column ``label``; rows of other classes are left out. None: there is none.
        judged: the rows that were judged, readable and labelled.
        labels: (n,) integer in [0, c), their classes.
        classes: the c labels.

    Returns:
        ``raw_linear``, with ``num_train``; a note alone where it cannot be fitted.

    Raises:
        DataError: ``train`` has no column ``label``.
    """
    reason = why_not_fitted(train, judged)
    if train is None or reason:
        return Baselines(notes=(reason,))
    number = {label: index for index, label in enumerate(classes)}
    known = [number.get(label, -1) for label in train.column("label")]
    rows = np.flatnonzero(np.array(known) >= 0)
    if len({known[row] for row in rows.tolist()}) < 2:
        return Baselines(notes=(f"{RAW}: {train.name} holds fewer than two of the classes.",))
    chosen = rows[sample_rows(len(rows), MAX_FIT_ROWS)]
    try:
        features, kept = raw_pixels(train.select(chosen))
        judged_features, judged_kept = raw_pixels(judged)
    except DataError as error:
        return Baselines(notes=(f"{RAW}: {error}",))
    fitted_rows = chosen[kept]
    answers = np.array(known)[fitted_rows]
    if len(np.unique(answers)) < 2:
        return Baselines(notes=(f"{RAW}: fewer than two classes of {train.name} are readable.",))
    model = fit_raw_linear(features, answers, train.group_ids().numpy()[fitted_rows])
    scores = model.log_probabilities(judged_features, len(classes))
    figures = classification_metrics(scores, labels[torch.from_numpy(judged_kept)], logit_scale=1.0)
    sampled = f"{RAW}: fitted on a sample of {len(chosen):,} of {len(rows):,} images."
    return Baselines(
        {"raw_linear": {**figures, "num_train": float(len(answers))}}, (sampled,) if len(chosen) < len(rows) else ()
    )
