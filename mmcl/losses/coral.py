"""CORAL: two sets of embeddings should have the same covariance."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.losses.arguments import check_matrix, widened


def coral(source: Tensor, target: Tensor) -> Tensor:
    r"""Squared distance between the covariance matrices of two sets of rows.

    .. math:: L = \frac{1}{4 d^2} \lVert C_s - C_t \rVert_F^2, \qquad
              C = \frac{1}{n - 1} \sum_i (x_i - \bar x)(x_i - \bar x)^\top

    Args:
        source: (n, d) embeddings or features, n >= 2, floating; half precision is widened to float32.
        target: (m, d), m >= 2; rows are not paired.

    Returns:
        () float32 (float64 of float64 inputs), >= 0. Memory is O((n + m) d + d^2).

    Raises:
        ShapeError: shapes do not fit, or a set has fewer than two rows: one has no covariance.

    Source: Sun and Saenko 2016 (arXiv:1607.01719) eq. 1-3.

    Relations: it sees second moments alone, and not even a shift; ``mmd`` sees every difference between distributions.
    The biased ``mmd``
    of centred rows, with the kernel <x, y>^2 and sets of equal size, would be this times 4 d^2 ((n - 1) / n)^2.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> float(coral(x, x[:, [1, 0]] + 3)), round(float(coral(x, 2 * x)), 3)  # 2 * (2 / 3 - 8 / 3)^2 / 16
        (0.0, 0.5)
    """
    check_matrix("source", source, least=2)
    check_matrix("target", target, dim=source.shape[1], least=2)
    with torch.autocast(source.device.type, enabled=False):
        source, target = widened(source, target)
        return (_covariance(source) - _covariance(target)).square().sum() / (4 * source.shape[1] ** 2)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)  # (d, d)
