"""VICReg: views agree, every coordinate varies over the batch, and no two coordinates vary together."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.losses.arguments import check_matrix, check_pair, check_positive, check_range, widened


def vicreg(
    x: Tensor,
    y: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    epsilon: float = 1e-4,
) -> Tensor:
    r"""Invariance between two views, with variance and covariance regularisation of each.

    .. math:: L = \lambda\, s(x, y) + \mu\, (v(x) + v(y)) + \nu\, (c(x) + c(y))

    .. math:: s = \frac{1}{bd} \sum_i \lVert x_i - y_i \rVert^2, \quad
              v(x) = \frac{1}{d} \sum_k \max\big(0, 1 - \sqrt{\mathrm{Var}(x_{\cdot k}) + \epsilon}\big), \quad
              c(x) = \frac{1}{d} \sum_{k \ne l} \mathrm{Cov}(x)_{kl}^2

    Args:
        x: (b, d) features of a projector, of any length, b >= 2, floating; half precision is widened to float32. Not
            unit rows: their coordinates cannot have the standard deviation 1 that v asks for.
        y: (b, d); row i is another view of x's.
        invariance: >= 0, the weight lambda.
        variance: >= 0, the weight mu.
        covariance: >= 0, the weight nu.
        epsilon: > 0, added to variances.

    Returns:
        () float32 (float64 of float64 inputs), >= 0. Memory is O(b d + d^2).

    Raises:
        ShapeError: shapes differ, there are fewer than two rows (one has no variance), or a weight or epsilon is out of
            range.

    Source: Bardes et al. 2022 (arXiv:2105.04906) eq. 1-6, variances over b - 1. s is the mean over coordinates as in
    their algorithm 1, to which the default weights belong; eq. 5 has the sum. Their later program halves v(x) + v(y).

    Relations: ``barlow_twins`` puts the same demands on the correlation between views. With invariance alone it is the
    mean squared error, for which a constant is as good as any answer.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> float(vicreg(x, x)), round(float(vicreg(0 * x, 0 * x)), 3)  # variance alone costs: 25 * 2 * 0.99
        (0.0, 49.5)
    """
    for name, weight in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        check_range(name, weight, 0.0)
    check_positive("epsilon", epsilon)
    check_pair(x, y, names=("x", "y"))
    check_matrix("x", x, least=2)
    with torch.autocast(x.device.type, enabled=False):
        x, y = widened(x, y)
        loss = invariance * (x - y).square().mean()
        for view in (x, y):
            loss = loss + variance * _lack_of_variance(view, epsilon) + covariance * _covariances(view)
    return loss


def _lack_of_variance(x: Tensor, epsilon: float) -> Tensor:
    return (1 - (x.var(0) + epsilon).sqrt()).relu().mean()


def _covariances(x: Tensor) -> Tensor:
    """() mean over coordinates of the squared covariances with all others."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred / (len(x) - 1)  # (d, d)
    return (covariance - torch.diag(covariance.diagonal())).square().sum() / x.shape[1]
