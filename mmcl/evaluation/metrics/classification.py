"""Classification metrics of scores (n, c) against labels (n,).

A tie counts against the model: the true class is predicted only where its score is strictly the highest. Classes
without a row in the data are still candidates for every prediction, but have no precision, recall or F1 of their own:
the per-class means are over the classes that occur.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows, check_ids


class ClassCounts(NamedTuple):
    """What precision, recall and F1 are made of; every tensor (c, ...), the further axes resamples, for instance.

    Attributes:
        hits: rows of the class that were predicted as it.
        support: rows of the class.
        predicted: rows that were predicted as the class.
    """

    hits: Tensor
    support: Tensor
    predicted: Tensor


def top_k_hits(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether fewer than k other classes score at least as high as the true one.

    Args:
        scores: (n, c) floating.
        labels: (n,) integer in [0, c).
        k: at least 1; at or above c every row is a hit.

    Returns:
        (n,) bool.

    Raises:
        ShapeError: shapes, dtypes or labels do not fit, or a score is not finite.
        ConfigError: k is below 1.

    Example:
        >>> top_k_hits(torch.tensor([[0.1, 0.9], [0.5, 0.5]]), torch.tensor([1, 1]), 1)
        tensor([ True, False])
    """
    scores, labels = check_scores(scores, labels)
    if k < 1:
        raise ConfigError(f"k needs to be at least 1, got {k}")
    rivals = (scores >= scores.gather(1, labels[:, None])).sum(1) - 1
    return rivals < k


def predict(scores: Tensor, labels: Tensor) -> Tensor:
    """The class each row is counted as: the highest score, and never the true class on a tie.

    The labels are needed for that alone. Equal to ``scores.argmax(1)`` where no row's highest score is tied.

    Returns:
        (n,) int64.

    Raises:
        ShapeError: as `top_k_hits`.
    """
    scores, labels = check_scores(scores, labels)
    true = scores.gather(1, labels[:, None])[:, 0]
    best = scores.scatter(1, labels[:, None], -torch.inf).max(1)
    return torch.where(true > best.values, labels, best.indices)


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(c, c) int64 counts: rows are true classes, columns predicted ones.

    Args:
        predicted: (n,) integer in [0, c).
        labels: (n,) integer in [0, c).
        num_classes: c.

    Raises:
        ShapeError: shapes or dtypes do not fit, or an id is outside [0, c).
    """
    labels = _check_classes("labels", check_ids("labels", labels, length=labels.numel(), of="labels"), num_classes)
    predicted = check_ids("predicted", predicted, length=len(labels), of="labels")
    predicted = _check_classes("predicted", predicted, num_classes)
    counts = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.view(num_classes, num_classes)


def class_counts(confusion: Tensor) -> ClassCounts:
    """The counts (c,) of a confusion matrix.

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is not square, or empty.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ShapeError(f"confusion needs shape (classes, classes), got {tuple(confusion.shape)}")
    if not confusion.sum():
        raise ShapeError("confusion needs at least one counted row, got an empty matrix")
    return ClassCounts(confusion.diagonal().double(), confusion.sum(1).double(), confusion.sum(0).double())


def precision_per_class(counts: ClassCounts) -> Tensor:
    """``TP / (TP + FP)`` of each class, (c, ...) float64; 0 where the class was never predicted."""
    return counts.hits / counts.predicted.clamp(min=1)


def recall_per_class(counts: ClassCounts) -> Tensor:
    """``TP / (TP + FN)`` of each class, (c, ...) float64; 0 where the class does not occur."""
    return counts.hits / counts.support.clamp(min=1)


def f1_per_class(counts: ClassCounts) -> Tensor:
    """``2 TP / (2 TP + FP + FN)`` of each class, (c, ...) float64; 0 where it neither occurs nor was predicted."""
    return 2.0 * counts.hits / (counts.support + counts.predicted).clamp(min=1)


def macro_mean(values: Tensor, counts: ClassCounts) -> Tensor:
    """The mean (...) over the classes that occur of one value (c, ...) a class, each weighing the same."""
    occurs = counts.support > 0
    return (values * occurs).sum(0) / occurs.sum(0)


def weighted_mean(values: Tensor, counts: ClassCounts) -> Tensor:
    """The mean (...) of one value (c, ...) a class, each weighing as many rows as it has."""
    return (values * counts.support).sum(0) / counts.support.sum(0)


def mean_per_class(confusion: Tensor) -> float:
    """The mean of the recalls of the classes that occur (balanced accuracy, macro recall).

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is empty.
    """
    counts = class_counts(confusion)
    return float(macro_mean(recall_per_class(counts), counts))


def precision_macro(confusion: Tensor) -> float:
    """The mean over the classes that occur of ``TP / (TP + FP)``, 0 for a class that was never predicted.

    Rows wrongly given to a class that does not occur are in no class's precision; they lower recalls.

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is empty.
    """
    counts = class_counts(confusion)
    return float(macro_mean(precision_per_class(counts), counts))


def f1_macro(confusion: Tensor) -> float:
    """The mean over the classes that occur of ``2 TP / (2 TP + FP + FN)``.

    Rows wrongly given to a class that does not occur lower the recall of their own class. scikit-learn's default
    would also average over such predicted classes, each with F1 = 0.

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is empty.
    """
    counts = class_counts(confusion)
    return float(macro_mean(f1_per_class(counts), counts))


def f1_weighted(confusion: Tensor) -> float:
    """The mean of ``2 TP / (2 TP + FP + FN)``, each class weighing as many rows as it has.

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is empty.
    """
    counts = class_counts(confusion)
    return float(weighted_mean(f1_per_class(counts), counts))


def check_scores(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (n, c) as finite float32 and labels (n,) as int64 in [0, c), both on the CPU.

    Raises:
        ShapeError: shapes, dtypes or labels do not fit, or a score is not finite.
    """
    scores = check_finite_rows("scores", scores)
    labels = check_ids("labels", labels, length=len(scores), of="scores")
    return scores, _check_classes("labels", labels, scores.shape[1])


def _check_classes(name: str, ids: Tensor, num_classes: int) -> Tensor:
    if len(ids) and (ids.min() < 0 or ids.max() >= num_classes):
        raise ShapeError(
            f"{name} needs ids from 0 to {num_classes - 1}, one a class, got {int(ids.min())} to {int(ids.max())}"
        )
    return ids


def check_scale(logit_scale: float) -> float:
    """A logit scale, known to be a finite number above 0.

    Raises:
        ConfigError: it is not.
    """
    if not 0 < logit_scale < float("inf"):
        raise ConfigError(f"logit_scale needs to be a finite number above 0, got {logit_scale}")
    return logit_scale
