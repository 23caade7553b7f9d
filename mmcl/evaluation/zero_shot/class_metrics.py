"""Everything a classifier's scores are judged by: the figures, their intervals, and the table of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl.evaluation.bootstrap import bootstrap_counts, bootstrap_means, ci95
from mmcl.evaluation.metrics import (
    ClassCounts,
    class_counts,
    confidences,
    confusion_matrix,
    expected_calibration_error,
    f1_per_class,
    macro_mean,
    precision_per_class,
    predict,
    recall_per_class,
    roc_areas,
    top_k_hits,
    weighted_mean,
)
from mmcl.evaluation.metrics.calibration import CALIBRATION_BINS


@dataclass(frozen=True)
class ClassLine:
    """One class of a classifier.

    Attributes:
        label: of the class.
        support: rows of the class.
        predicted: rows predicted as the class.
        precision, recall, f1: in [0, 1]; None where the class does not occur.
        roc_auc: against the rest; None where the class does not occur, or alone does.
    """

    label: str
    support: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None


def classification_metrics(scores: Tensor, labels: Tensor, *, logit_scale: float) -> dict[str, float]:
    """The figures of a classifier, each in [0, 1].

    Args:
        scores: (n, c) floating, n at least 1.
        labels: (n,) integer in [0, c).
        logit_scale: above 0, from scores to logits.

    Returns:
        ``top1``; ``top5`` (top c where c < 5); ``mean_per_class``, ``precision_macro``, ``recall_macro`` (the same
        number as ``mean_per_class``, under its other name), ``f1_macro``, ``f1_weighted``, over the classes that occur;
        ``ece``; ``roc_auc_macro``, left out where fewer than two classes occur.

    Raises:
        ShapeError: shapes do not fit, a score is not finite, or there is no row.
        ConfigError: ``logit_scale`` is not above 0.

    Example:
        >>> classification_metrics(torch.eye(2), torch.tensor([0, 1]), logit_scale=1.0)["f1_macro"]
        1.0
    """
    num_classes = scores.shape[1]
    counts = class_counts(confusion_matrix(predict(scores, labels), labels, num_classes))
    figures = {
        "top1": float(top_k_hits(scores, labels, 1).double().mean()),
        "top5": float(top_k_hits(scores, labels, min(5, num_classes)).double().mean()),
        **{name: float(value) for name, value in _of_counts(counts).items()},
        "ece": expected_calibration_error(scores, labels, logit_scale=logit_scale),
    }
    if len(labels.unique()) > 1:
        figures["roc_auc_macro"] = float(roc_areas(scores, labels, logit_scale=logit_scale).areas.nanmean())
    return figures


def classification_intervals(
    scores: Tensor, labels: Tensor, groups: Tensor, *, logit_scale: float
) -> dict[str, list[float]]:
    """95 % intervals of `classification_metrics`, by resampling whole groups of rows.

    Counts of rows are resampled, not rows: the time is O(resamples * n), whatever the number of classes. A class that
    is in no drawn group does not occur in that resample. The ROC area is resampled to first order, through what each
    row contributes to it. Figures that are no mean over rows are off in small samples, and more so in resamples of
    them: their percentiles are moved by the mean of that excess. The calibration error of a sample is always too high;
    its interval reaches down once more by as much.

    Args:
        scores: (n, c) floating, n at least 1.
        labels: (n,) integer in [0, c).
        groups: (n,) integer; rows of one group are drawn together.
        logit_scale: above 0.

    Returns:
        ``NAME_ci95``: ``[low, high]`` within [0, 1], for every name of `classification_metrics`.

    Raises:
        ShapeError: as `classification_metrics`.

    Source:
        Davison & Hinkley 1997, sections 3.8 (clusters) and 2.7 (linear approximation).
    """
    num_classes = scores.shape[1]
    predicted = predict(scores, labels)
    hits = torch.stack([top_k_hits(scores, labels, k).double() for k in (1, min(5, num_classes))], dim=1)
    one = confidences(scores, labels, logit_scale=logit_scale)
    gap = (one.correct - one.confidence).float()[:, None]
    right = (predicted == labels).float()[:, None]
    replicates: dict[str, list[Tensor]] = {}
    for drawn in bootstrap_counts(groups):  # (n, r)
        counts = ClassCounts(
            hits=_sum_by(labels, drawn * right, num_classes),
            support=_sum_by(labels, drawn, num_classes),
            predicted=_sum_by(predicted, drawn, num_classes),
        )
        block = _of_counts(counts)
        block["ece"] = _sum_by(one.bin, drawn * gap, CALIBRATION_BINS).abs().sum(0) / drawn.sum(0)
        for name, value in block.items():
            replicates.setdefault(name, []).append(value.double())
    figures = classification_metrics(scores, labels, logit_scale=logit_scale)
    moved = {name: torch.cat(parts) for name, parts in replicates.items()}
    excess = {name: float(value.mean()) - figures[name] for name, value in moved.items()}
    moved = {name: value - excess[name] for name, value in moved.items()}
    moved["top1"], moved["top5"] = bootstrap_means(hits, groups).T
    if "roc_auc_macro" in figures:
        influence = roc_areas(scores, labels, logit_scale=logit_scale).influence
        moved["roc_auc_macro"] = figures["roc_auc_macro"] + bootstrap_means(influence[:, None], groups)[:, 0]
    num_groups = len(groups.unique())
    intervals = {f"{name}_ci95": ci95(value.clamp(0.0, 1.0), num_groups=num_groups) for name, value in moved.items()}
    intervals["ece_ci95"][0] = max(0.0, intervals["ece_ci95"][0] - max(0.0, excess["ece"]))
    return intervals


def class_table(classes: Sequence[str], scores: Tensor, labels: Tensor, *, logit_scale: float) -> list[ClassLine]:
    """Precision, recall, F1, ROC area and support of each class, in the order of ``classes``.

    Args:
        classes: c labels.
        scores: (n, c) floating, n at least 1.
        labels: (n,) integer in [0, c).
        logit_scale: above 0.

    Raises:
        ShapeError: as `classification_metrics`.
    """
    counts = class_counts(confusion_matrix(predict(scores, labels), labels, len(classes)))
    several = len(labels.unique()) > 1
    areas = roc_areas(scores, labels, logit_scale=logit_scale).areas.tolist() if several else [None] * len(classes)
    columns = [one(counts).tolist() for one in (precision_per_class, recall_per_class, f1_per_class)]
    lines = []
    for index, label in enumerate(classes):
        support = int(counts.support[index])
        precision, recall, f1 = (column[index] for column in columns) if support else (None, None, None)
        area = areas[index] if support else None
        lines.append(ClassLine(label, support, int(counts.predicted[index]), precision, recall, f1, area))
    return lines


def _of_counts(counts: ClassCounts) -> dict[str, Tensor]:
    """The figures that are functions of the counts (c, ...), each (...)."""
    recall, f1 = macro_mean(recall_per_class(counts), counts), f1_per_class(counts)
    return {
        "mean_per_class": recall,
        "precision_macro": macro_mean(precision_per_class(counts), counts),
        "recall_macro": recall,
        "f1_macro": macro_mean(f1, counts),
        "f1_weighted": weighted_mean(f1, counts),
    }


def _sum_by(index: Tensor, values: Tensor, size: int) -> Tensor:
    """(size, r): the rows of ``values`` (n, r) summed by ``index`` (n,)."""
    return torch.zeros(size, values.shape[1]).index_add_(0, index, values)
