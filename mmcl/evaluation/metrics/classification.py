"""Classification metrics of scores (n, c) against labels (n,).

A tie counts against the model: the true class is predicted only where its score is strictly the highest. Classes
without a row in the data are still candidates for every prediction, but have no recall, F1 or ROC AUC of their own:
the per-class means are over the classes that occur.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows, check_ids


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
    scores, labels = _check(scores, labels)
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
    scores, labels = _check(scores, labels)
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


def mean_per_class(confusion: Tensor) -> float:
    """The mean of the recalls of the classes that occur (balanced accuracy).

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is empty.
    """
    support = _support(confusion)
    occurs = support > 0
    return float((confusion.diagonal()[occurs] / support[occurs]).mean())


def f1_macro(confusion: Tensor) -> float:
    """The mean over the classes that occur of ``2 TP / (2 TP + FP + FN)``.

    Rows wrongly given to a class that does not occur lower the recall of their own class. scikit-learn's default
    would also average over such predicted classes, each with F1 = 0.

    Args:
        confusion: (c, c) from `confusion_matrix`, with at least one row counted.

    Raises:
        ShapeError: the matrix is empty.
    """
    support = _support(confusion)
    occurs = support > 0
    f1 = 2.0 * confusion.diagonal() / (support + confusion.sum(0)).clamp(min=1)
    return float(f1[occurs].mean())


def roc_auc_macro(scores: Tensor, labels: Tensor, *, logit_scale: float) -> float:
    """One-vs-rest area under the ROC curve of ``softmax(logit_scale * scores)``, mean over the classes that occur.

    It is computed on the logarithm, which orders alike and, unlike the softmax itself, does not underflow into ties.

    Args:
        scores: (n, c) floating.
        labels: (n,) integer in [0, c), of at least two classes.
        logit_scale: above 0; it changes the result, since the softmax compares across rows.

    Raises:
        ShapeError: as `top_k_hits`, or fewer than two classes occur: there is no curve then.
        ConfigError: ``logit_scale`` is not above 0.

    Source:
        ``sklearn.metrics.roc_auc_score``, one class at a time.
    """
    from sklearn.metrics import roc_auc_score

    scores, labels = _check(scores, labels)
    log_probabilities = (_check_scale(logit_scale) * scores).log_softmax(1).numpy()
    occurring = labels.unique().tolist()
    if len(occurring) < 2:
        raise ShapeError(f"labels needs at least two classes for a ROC curve, got {len(occurring)}")
    areas = [roc_auc_score((labels == c).numpy(), log_probabilities[:, c]) for c in occurring]
    return float(sum(areas) / len(areas))


def expected_calibration_error(scores: Tensor, labels: Tensor, *, logit_scale: float, bins: int = 15) -> float:
    """Expected calibration error: ``sum over bins of share * |accuracy - mean confidence|``.

    The confidence is the highest entry of ``softmax(logit_scale * scores)``; bin b holds confidences in
    ``(b / bins, (b + 1) / bins]``.

    Args:
        scores: (n, c) floating, n at least 1.
        labels: (n,) integer in [0, c).
        logit_scale: above 0.
        bins: of equal width.

    Raises:
        ShapeError: as `top_k_hits`, or there is no row.
        ConfigError: ``logit_scale`` is not above 0, or ``bins`` is below 1.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, with their 15 bins.
    """
    if bins < 1:
        raise ConfigError(f"bins needs to be at least 1, got {bins}")
    scores, labels = _check(scores, labels)
    if not len(labels):
        raise ShapeError("scores needs at least one row for a calibration error, got none")
    confidence = (_check_scale(logit_scale) * scores).softmax(1).amax(1).double()
    correct = top_k_hits(scores, labels, 1).double()
    index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, correct - confidence)
    return float(gap.abs().sum() / len(labels))


def _check(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    scores = check_finite_rows("scores", scores)
    labels = check_ids("labels", labels, length=len(scores), of="scores")
    return scores, _check_classes("labels", labels, scores.shape[1])


def _check_classes(name: str, ids: Tensor, num_classes: int) -> Tensor:
    if len(ids) and (ids.min() < 0 or ids.max() >= num_classes):
        raise ShapeError(
            f"{name} needs ids from 0 to {num_classes - 1}, one a class, got {int(ids.min())} to {int(ids.max())}"
        )
    return ids


def _check_scale(logit_scale: float) -> float:
    if not 0 < logit_scale < float("inf"):
        raise ConfigError(f"logit_scale needs to be a finite number above 0, got {logit_scale}")
    return logit_scale


def _support(confusion: Tensor) -> Tensor:
    support = confusion.sum(1)
    if not support.sum():
        raise ShapeError("confusion needs at least one counted row, got an empty matrix")
    return support
