"""ROC curves and the areas under them: one class against the rest, and their means over classes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.evaluation.metrics.classification import check_scale, check_scores


class RocCurve(NamedTuple):
    """A ROC curve through (0, 0) and (1, 1).

    Attributes:
        false_positive_rate: (k,) float64, ascending.
        true_positive_rate: (k,) float64, ascending.
    """

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray


class RocAreas(NamedTuple):
    """The areas under the one-against-rest ROC curves, and what each row contributes to their mean.

    Attributes:
        areas: (c,) float64; NaN for a class that does not occur, or is the only one that does.
        influence: (n,) float64 with mean 0: the mean area of data in which row i stands w_i times is, to first order,
            the mean area plus the w-weighted mean of ``influence``.
    """

    areas: Tensor
    influence: Tensor


def roc_curve(scores: Tensor, positive: Tensor) -> RocCurve:
    """True positive rate against false positive rate over every threshold; equal scores share one point.

    Args:
        scores: (n,) floating, higher for positives.
        positive: (n,) bool with at least one True and one False.

    Raises:
        ShapeError: shapes do not fit, a score is not finite, or one of the two kinds is missing.

    Source:
        ``sklearn.metrics.roc_curve``, which leaves out points on a straight line.

    Example:
        >>> roc_curve(torch.tensor([0.9, 0.1]), torch.tensor([True, False])).true_positive_rate.tolist()
        [0.0, 1.0, 1.0]
    """
    from sklearn.metrics import roc_curve as by_sklearn

    if scores.ndim != 1 or scores.shape != positive.shape or positive.dtype != torch.bool:
        raise ShapeError(
            f"scores (n,) and positive (n,) bool are needed, got {tuple(scores.shape)} and {tuple(positive.shape)} "
            f"{positive.dtype}"
        )
    if not scores.isfinite().all():
        raise ShapeError("scores holds NaN or infinity; a curve of them would mean nothing")
    if positive.all() or not positive.any():
        raise ShapeError(f"positive needs some True and some False for a ROC curve, got {int(positive.sum())} True")
    false, true, _ = by_sklearn(positive.numpy(), scores.detach().cpu().double().numpy())
    return RocCurve(false, true)


def macro_roc_curve(curves: list[RocCurve], *, points: int = 201) -> RocCurve:
    """The mean of several ROC curves at equal false positive rates.

    Args:
        curves: at least one.
        points: evenly spaced false positive rates, besides (0, 0).

    Raises:
        ShapeError: there is no curve.
    """
    if not curves:
        raise ShapeError("curves needs at least one ROC curve, got none")
    grid = np.linspace(0.0, 1.0, points)
    # A curve may rise straight up: np.interp takes the last point at an equal x, which is the top of the rise.
    heights = np.mean([np.interp(grid, one.false_positive_rate, one.true_positive_rate) for one in curves], axis=0)
    return RocCurve(np.concatenate([[0.0], grid]), np.concatenate([[0.0], heights]))


def one_against_rest(scores: Tensor, *, logit_scale: float) -> Tensor:
    """``log softmax(logit_scale * scores)`` (n, c): what a class's ROC curve orders the rows by.

    The logarithm orders as the softmax does and, unlike it, does not underflow into ties.

    Raises:
        ConfigError: ``logit_scale`` is not above 0.
    """
    return (check_scale(logit_scale) * scores).log_softmax(1)


def roc_areas(scores: Tensor, labels: Tensor, *, logit_scale: float) -> RocAreas:
    """The area under each class's ROC curve: how often a row of the class is above a row of another, a tie half.

    Args:
        scores: (n, c) floating.
        labels: (n,) integer in [0, c).
        logit_scale: above 0; it changes the result, since the softmax compares across rows.

    Raises:
        ShapeError: as `top_k_hits`, or fewer than two classes occur: there is no curve then.
        ConfigError: ``logit_scale`` is not above 0.

    Source:
        Hanley & McNeil 1982 (the area as a probability); DeLong et al. 1988 (a row's contribution: its placement among
        the rows of the other kind).
    """
    scores, labels = check_scores(scores, labels)
    by_class = one_against_rest(scores, logit_scale=logit_scale).T.contiguous().numpy()  # (c, n)
    occurring = labels.unique().tolist()
    if len(occurring) < 2:
        raise ShapeError(f"labels needs at least two classes for a ROC curve, got {len(occurring)}")
    areas = np.full(scores.shape[1], np.nan)
    influence = np.zeros(len(labels))
    truth = labels.numpy()
    for index in occurring:
        positive = truth == index
        above, below = by_class[index][positive], by_class[index][~positive]
        placed = _placements(above, below)
        areas[index] = placed.mean()
        influence[positive] += (placed - areas[index]) / len(above)
        influence[~positive] += (1.0 - _placements(below, above) - areas[index]) / len(below)
    return RocAreas(torch.from_numpy(areas), torch.from_numpy(influence * (len(labels) / len(occurring))))


def roc_auc_macro(scores: Tensor, labels: Tensor, *, logit_scale: float) -> float:
    """One-vs-rest area under the ROC curve of ``softmax(logit_scale * scores)``, mean over the classes that occur.

    Args:
        scores: (n, c) floating.
        labels: (n,) integer in [0, c), of at least two classes.
        logit_scale: above 0; it changes the result, since the softmax compares across rows.

    Raises:
        ShapeError: as `top_k_hits`, or fewer than two classes occur: there is no curve then.
        ConfigError: ``logit_scale`` is not above 0.
    """
    return float(roc_areas(scores, labels, logit_scale=logit_scale).areas.nanmean())


def _placements(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The share of ``others`` below each of ``values``, those equal to it counted half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, values, side="left")
    return (below + np.searchsorted(ordered, values, side="right")) / (2.0 * len(others))
