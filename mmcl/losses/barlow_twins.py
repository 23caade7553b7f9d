"""Barlow Twins: two views' coordinates should correlate one to one, and with nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.losses.arguments import check_matrix, check_pair, check_positive, check_range, widened


def barlow_twins(x: Tensor, y: Tensor, *, redundancy_weight: float = 5e-3, epsilon: float = 1e-5) -> Tensor:
    r"""Distance of the correlation matrix between two views from the identity.

    .. math:: L = \sum_k (1 - C_{kk})^2 + \lambda \sum_{k \ne l} C_{kl}^2, \qquad
              C_{kl} = \frac{1}{b} \sum_i \hat x_{ik}\, \hat y_{il}, \qquad
              \hat x_{ik} = \frac{x_{ik} - \bar x_k}{\sqrt{\mathrm{Var}_k + \epsilon}}

    Args:
        x: (b, d) features of a projector, of any length, b >= 2, floating; half precision is widened to float32.
        y: (b, d); row i is another view of x's.
        redundancy_weight: >= 0, the paper's lambda.
        epsilon: > 0, added to variances. It is small against features of a projector; of unit rows, whose variances
            are 1/d, it takes a part of every correlation: give less, or features before normalisation.

    Returns:
        () float32 (float64 of float64 inputs), >= 0. A constant coordinate correlates with nothing and costs 1. Memory
        is O(b d + d^2).

    Raises:
        ShapeError: shapes differ, there are fewer than two rows (one has no variance), or redundancy_weight or epsilon
            is out of range.

    Source: Zbontar et al. 2021 (arXiv:2103.03230) eq. 1-2; variances over b and epsilon as in the authors' program,
    which standardises by batch normalisation.

    Relations: ``vicreg`` asks the same of each view by itself (variance, no covariance) and compares rows directly. Of
    a view with itself, coordinates of mean 0 and variance 1, the second sum is d ((b - 1) / b)^2 times its c.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> round(float(barlow_twins(x, 3 * x + 1)), 3), round(float(barlow_twins(x, -x)), 3)
        (0.0, 8.0)
    """
    check_range("redundancy_weight", redundancy_weight, 0.0)
    check_positive("epsilon", epsilon)
    check_pair(x, y, names=("x", "y"))
    check_matrix("x", x, least=2)
    with torch.autocast(x.device.type, enabled=False):
        x, y = (_standardised(view, epsilon) for view in widened(x, y))
        correlations = x.T @ y / len(x)  # (d, d)
        own = correlations.diagonal()
        others = correlations - torch.diag(own)  # not a difference of sums, which rounding could make negative
        return (1 - own).square().sum() + redundancy_weight * others.square().sum()


def _standardised(x: Tensor, epsilon: float) -> Tensor:
    return (x - x.mean(0)) * (x.var(0, correction=0) + epsilon).rsqrt()
