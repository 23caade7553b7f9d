"""Metrics of images with several labels each: scores (n, c) against relevant (n, c)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows


class ClassPrecision(NamedTuple):
    """Average precision of every class, and what each row contributes to their mean.

    Attributes:
        values: (c,) float64; NaN for a class without a relevant row.
        influence: (n,) float64 with mean 0: the mean of ``values`` over data in which row i stands w_i times is, to
            first order, that mean plus the w-weighted mean of ``influence``.
    """

    values: Tensor
    influence: Tensor


def class_average_precision(scores: Tensor, relevant: Tensor) -> ClassPrecision:
    """Average precision of each class over all rows: ``mean over relevant rows i of (relevant rows scored at least
    s_i) / (rows scored at least s_i)``; the mean over classes is the mAP of multi-label classification.

    Rows of equal score enter together, as at one threshold: no order among them helps, and constant scores give the
    share of relevant rows, which is chance.

    Args:
        scores: (n, c) floating.
        relevant: (n, c) bool; a class may have no relevant row, but not all of them.

    Raises:
        ShapeError: shapes or dtypes do not fit, a score is not finite, or no class has a relevant row.

    Source:
        ``sklearn.metrics.average_precision_score``, one class at a time (no interpolation, unlike PASCAL VOC 2007).

    Example:
        >>> scores = torch.tensor([[0.9], [0.8], [0.1]])
        >>> class_average_precision(scores, torch.tensor([[True], [False], [True]])).values
        tensor([0.8333], dtype=torch.float64)
    """
    scores, relevant = _check(scores, relevant)
    by_class, truth = scores.T.contiguous().numpy(), relevant.T.contiguous().numpy()
    values = np.full(scores.shape[1], np.nan)
    influence = np.zeros(len(scores))
    occurring = truth.any(1).nonzero()[0]
    if not len(occurring):
        raise ShapeError("relevant needs at least one True, got none: no class has an average precision")
    for index in occurring:
        values[index], one = _one_class(by_class[index], truth[index])
        influence += one
    return ClassPrecision(torch.from_numpy(values), torch.from_numpy(influence * (len(scores) / len(occurring))))


def overlap_at_k(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """The share of a row's labels among its k highest-scored classes, of as many as there is room for:
    ``|top k and labels| / min(k, |labels|)``. A tie counts against the model.

    Args:
        scores: (n, c) floating.
        relevant: (n, c) bool.
        k: at least 1.

    Returns:
        (m,) float64, one number a row that has a label, in order; empty where none has.

    Raises:
        ShapeError: shapes or dtypes do not fit, or a score is not finite.
        ConfigError: k is below 1.

    Example:
        >>> overlap_at_k(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[True, False, True]]), 2)
        tensor([0.5000], dtype=torch.float64)
    """
    if k < 1:
        raise ConfigError(f"k needs to be at least 1, got {k}")
    scores, relevant = _check(scores, relevant)
    labelled = relevant.any(1)
    scores, relevant = scores[labelled], relevant[labelled]
    # The last key sorts first: by falling score, and among equals the wrong classes first.
    first = np.lexsort((relevant.numpy(), -scores.numpy()), axis=1)[:, :k]
    hits = relevant.gather(1, torch.from_numpy(first)).sum(1).double()
    return hits / relevant.sum(1).clamp(max=k)


def chance_overlap_at_k(relevant: Tensor, k: int) -> float:
    """The mean of `overlap_at_k` that a random order of the classes is expected to score; 0 where no row has a label.

    Args:
        relevant: (n, c) bool.
        k: at least 1.
    """
    counts = relevant.sum(1)
    counts = counts[counts > 0].double()
    if not len(counts):
        return 0.0
    return float((min(k, relevant.shape[1]) * counts / relevant.shape[1] / counts.clamp(max=k)).mean())


def _one_class(scores: np.ndarray, relevant: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision of one class, and the derivative (n,) of it by how often each row stands in the data."""
    order = np.argsort(-scores, kind="stable")
    truth = relevant[order].astype(np.float64)
    # All rows of one score share the counts at the last of them.
    new = np.concatenate([[True], np.diff(scores[order]) != 0])
    start = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    end = np.append(np.flatnonzero(new)[1:], len(order))[np.cumsum(new) - 1]
    precision = np.cumsum(truth)[end - 1] / end
    total = truth.sum()
    value = float((precision * truth).sum() / total)
    # A row changes the precision at its own score and at every lower one: sums from its score downwards.
    weight = np.append(np.cumsum((truth / end)[::-1])[::-1], 0.0)[start]
    weighted = np.append(np.cumsum((truth * precision / end)[::-1])[::-1], 0.0)[start]
    derivative = np.empty(len(order))
    derivative[order] = (truth * (precision - value) + truth * weight - weighted) / total
    return value, derivative


def _check(scores: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor]:
    scores = check_finite_rows("scores", scores)
    if relevant.shape != scores.shape or relevant.dtype != torch.bool:
        raise ShapeError(
            f"relevant needs shape {tuple(scores.shape)} and dtype bool, got {tuple(relevant.shape)} {relevant.dtype}"
        )
    return scores, relevant.detach().cpu()
