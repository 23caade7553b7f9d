"""Calibration of a classifier: whether it is right as often as it says it is."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.metrics.classification import check_scale, check_scores, top_k_hits

CALIBRATION_BINS = 15


class Confidences(NamedTuple):
    """Each row's part in the calibration of a classifier.

    Attributes:
        confidence: (n,) float64, the highest entry of the softmax.
        correct: (n,) float64, 1 where the prediction is right; a tie is wrong.
        bin: (n,) int64, which bin of equal width the confidence falls in.
    """

    confidence: Tensor
    correct: Tensor
    bin: Tensor


class Reliability(NamedTuple):
    """A reliability curve: one entry a bin that holds a row, by rising confidence.

    Attributes:
        confidence: (k,) float64, mean confidence of the bin's rows.
        accuracy: (k,) float64, the share of them that is right.
        count: (k,) int64 rows.
        bins: the number of bins of equal width between 0 and 1, empty ones included.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor
    bins: int


def confidences(scores: Tensor, labels: Tensor, *, logit_scale: float, bins: int = CALIBRATION_BINS) -> Confidences:
    """How sure the classifier is of each row, whether it is right, and the bin it counts in.

    The confidence is the highest entry of ``softmax(logit_scale * scores)``; bin b holds confidences in
    ``(b / bins, (b + 1) / bins]``.

    Args:
        scores: (n, c) floating.
        labels: (n,) integer in [0, c).
        logit_scale: above 0.
        bins: of equal width.

    Raises:
        ShapeError: as `top_k_hits`.
        ConfigError: ``logit_scale`` is not above 0, or ``bins`` is below 1.
    """
    if bins < 1:
        raise ConfigError(f"bins needs to be at least 1, got {bins}")
    scores, labels = check_scores(scores, labels)
    confidence = (check_scale(logit_scale) * scores).softmax(1).amax(1).double()
    correct = top_k_hits(scores, labels, 1).double()
    return Confidences(confidence, correct, (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1))


def reliability_curve(
    scores: Tensor, labels: Tensor, *, logit_scale: float, bins: int = CALIBRATION_BINS
) -> Reliability:
    """Mean confidence against accuracy, bin by bin; a calibrated classifier lies on the diagonal.

    Args:
        scores: (n, c) floating, n at least 1.
        labels: (n,) integer in [0, c).
        logit_scale: above 0.
        bins: of equal width.

    Raises:
        ShapeError: as `top_k_hits`, or there is no row.
        ConfigError: ``logit_scale`` is not above 0, or ``bins`` is below 1.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.

    Example:
        >>> curve = reliability_curve(torch.eye(2), torch.tensor([0, 0]), logit_scale=100.0)
        >>> curve.confidence.tolist(), curve.accuracy.tolist(), curve.count.tolist()
        ([1.0], [0.5], [2])
    """
    one = _of_some(scores, labels, logit_scale=logit_scale, bins=bins)
    count = torch.bincount(one.bin, minlength=bins)
    filled = count > 0
    sums = torch.zeros(2, bins, dtype=torch.float64)
    sums.index_add_(1, one.bin, torch.stack([one.confidence, one.correct]))
    confidence, accuracy = sums[:, filled] / count[filled]
    return Reliability(confidence, accuracy, count[filled], bins)


def expected_calibration_error(
    scores: Tensor, labels: Tensor, *, logit_scale: float, bins: int = CALIBRATION_BINS
) -> float:
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
    one = _of_some(scores, labels, logit_scale=logit_scale, bins=bins)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, one.bin, one.correct - one.confidence)
    return float(gap.abs().sum() / len(labels))


def _of_some(scores: Tensor, labels: Tensor, *, logit_scale: float, bins: int) -> Confidences:
    one = confidences(scores, labels, logit_scale=logit_scale, bins=bins)
    if not len(one.bin):
        raise ShapeError("scores needs at least one row for a calibration error, got none")
    return one
