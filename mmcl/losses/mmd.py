"""Maximum mean discrepancy: two sets of embeddings should have the same distribution, as Gaussian kernels see it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses.arguments import check_choice, check_matrix, check_positive, widened
from mmcl.losses.distances import pairwise_distances
from mmcl.losses.row_blocks import row_blocks, sum_over_blocks

ESTIMATORS = ("biased", "unbiased")
# Around the median distance, each bandwidth twice the last: without one scale that must be right.
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
MEDIAN_ROWS = 1024


def mmd(
    source: Tensor, target: Tensor, *, bandwidths: Sequence[float] | None = None, estimator: str = "biased"
) -> Tensor:
    r"""Squared maximum mean discrepancy between two sets of rows, with a mean of Gaussian kernels.

    .. math:: L = \overline{k(s, s')} + \overline{k(t, t')} - 2\, \overline{k(s, t)}, \qquad
              k(x, y) = \frac{1}{|\Sigma|} \sum_{\sigma \in \Sigma} e^{-\lVert x - y \rVert^2 / 2 \sigma^2}

    with means over pairs of rows: "biased" over all pairs, a row with itself among them, which is never negative and 0
    for equal sets; "unbiased" without those, which is 0 on average for samples of one distribution and may be negative.

    Args:
        source: (n, d) embeddings or features, floating; half precision is widened to float32.
        target: (m, d); rows are not paired.
        bandwidths: the sigmas, each > 0, in units of Euclidean distance. None: 1/4, 1/2, 1, 2 and 4 times
            ``median_distance`` of both sets together; they carry no gradient.
        estimator: "biased" or "unbiased"; the latter needs two rows in each set.

    Returns:
        () float32 (float64 of float64 inputs). Memory is O((n + m) (d + block)), time O((n + m)^2 d).

    Raises:
        ShapeError: shapes do not fit, a set has too few rows, or a bandwidth is not positive or there is none.
        ConfigError: an unknown estimator.

    Source: Gretton et al. 2012, "A Kernel Two-Sample Test" (JMLR 13), eq. 3 ("unbiased") and the square of eq. 5
    ("biased"); several kernels: Long et al. 2015 (arXiv:1502.02791) eq. 2, there with learnt weights.

    Relations: ``coral`` compares covariances alone. For bandwidths far above all distances, 2 sigma^2 L becomes twice
    the squared distance between the two means.

    Example:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> float(mmd(x, x.flip(0))), float(mmd(x, x + 1)) < float(mmd(x, x + 2))
        (0.0, True)
        >>> float(mmd(x, x, estimator="unbiased")) < 0
        True
    """
    check_choice("estimator", estimator, ESTIMATORS)
    least = 2 if estimator == "unbiased" else 1
    check_matrix("source", source, least=least)
    check_matrix("target", target, dim=source.shape[1], least=least)
    if bandwidths is not None and len(bandwidths) == 0:
        raise ShapeError("bandwidths are empty; want at least one, or None for those around the median distance")
    for bandwidth in bandwidths or ():
        check_positive("a bandwidth", bandwidth)
    with torch.autocast(source.device.type, enabled=False):
        source, target = widened(source, target)
        if bandwidths is None:
            sigmas = median_distance(source, target) * source.new_tensor(FACTORS)
        else:
            sigmas = source.new_tensor(bandwidths)
        within = _mean_kernel(source, source, sigmas, estimator) + _mean_kernel(target, target, sigmas, estimator)
        return within - 2 * _mean_kernel(source, target, sigmas, "biased")


@torch.no_grad()
def median_distance(source: Tensor, target: Tensor) -> Tensor:
    """Median Euclidean distance between different rows of two sets together.

    Of more than 1,024 rows that many are taken, evenly spaced: a bandwidth needs no more.

    Args:
        source: (n, d), floating.
        target: (m, d).

    Returns:
        () float32 (float64 of float64 inputs), > 0, without gradient: 1 where the median is 0 or there is one row.

    Raises:
        ShapeError: shapes do not fit.

    Source: the heuristic of Gretton et al. 2012, sec. 8.

    Example:
        >>> import torch
        >>> float(median_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]])))
        2.0
    """
    check_matrix("source", source)
    check_matrix("target", target, dim=source.shape[1])
    rows = torch.cat(widened(source, target))
    if len(rows) > MEDIAN_ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, MEDIAN_ROWS, device=rows.device).long()]
    upper, right = torch.triu_indices(len(rows), len(rows), 1, device=rows.device)
    if len(upper) == 0:
        return rows.new_ones(())
    median = pairwise_distances(rows, rows, "euclidean")[upper, right].median()
    return median.masked_fill(median == 0, 1.0)


def _mean_kernel(x: Tensor, y: Tensor, sigmas: Tensor, estimator: str) -> Tensor:
    """() mean of the kernels over pairs; "unbiased" leaves out the pairs of a row of x with itself, y being x."""

    def block_sum(block: slice, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        squared = pairwise_distances(x[block], y, "squared_euclidean")  # (r, m)
        kernels = sum((squared / (-2 * sigma**2)).exp() for sigma in sigmas.unbind())
        return kernels.sum(), kernels.new_zeros(())

    total, _ = sum_over_blocks(block_sum, row_blocks(len(x), len(y), x.device), x, y)
    total = total / len(sigmas)
    if estimator == "biased":
        return total / (len(x) * len(y))
    return (total - len(x)) / (len(x) * (len(x) - 1))  # a row with itself: exp(0)
