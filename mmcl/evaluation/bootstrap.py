"""Confidence intervals by a seeded cluster bootstrap: whole groups are drawn, since one group's queries go together.

Source: Davison & Hinkley 1997, section 3.8 (resampling clusters); percentile intervals, Efron & Tibshirani 1993,
chapter 13, with the quantiles moved outwards for few groups as in Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", section 5.3. The gallery counts as fixed: an interval says how the figure would vary with other queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.evaluation.checks import check_ids

RESAMPLES = 1000
# Numbers held at a time while resampling, so that memory does not grow with the number of resamples.
_BUDGET = 2**20


def bootstrap_means(values: Tensor, groups: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """The mean over queries in each resample of the groups.

    Args:
        values: (q, s), one row a query, one column a statistic.
        groups: (q,) integer; queries of one group are drawn together. Two calls whose groups hold the same ids draw
            the same groups, so their replicates can be combined.
        resamples: number of resamples.
        seed: of the draw.

    Returns:
        (resamples, s) float64. With a single group every replicate is the mean itself.

    Raises:
        ShapeError: no query, NaN, or shapes that do not fit.

    Example:
        >>> values = torch.tensor([[0.0], [1.0], [1.0], [1.0]])
        >>> low, high = ci95(bootstrap_means(values, torch.arange(4))[:, 0])
        >>> low < 0.75 <= high
        True
    """
    if values.ndim != 2:
        raise ShapeError(f"values needs two axes (queries, statistics), got shape {tuple(values.shape)}")
    cluster, num_clusters = _clusters(values, groups)
    sums = torch.zeros(num_clusters, values.shape[1], dtype=torch.float64).index_add_(0, cluster, values.double())
    sizes = torch.bincount(cluster, minlength=num_clusters).double()
    draws = _draws(num_clusters, num_clusters, resamples=resamples, seed=seed)
    return torch.cat([(drawn @ sums) / (drawn @ sizes)[:, None] for drawn in draws])


def bootstrap_medians(values: Tensor, groups: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """The median over queries in each resample of the groups (the mean of the middle two if even).

    Args:
        values: (q,).
        groups: (q,) integer; queries of one group are drawn together.
        resamples: number of resamples.
        seed: of the draw.

    Returns:
        (resamples,) float64.

    Raises:
        ShapeError: no query, NaN, or shapes that do not fit.
    """
    if values.ndim != 1:
        raise ShapeError(f"values needs one axis (queries), got shape {tuple(values.shape)}")
    cluster, num_clusters = _clusters(values, groups)
    ordered, order = values.double().sort()
    medians = []
    for drawn in _draws(num_clusters, len(values), resamples=resamples, seed=seed):
        upto = drawn[:, cluster[order]].cumsum(1)  # (r, q): queries drawn whose value is among the lowest so far
        total = upto[:, -1:]
        # The i-th of the drawn queries, from 0, is the first whose running count exceeds i.
        middle = torch.cat([((total - 1) / 2).floor(), (total / 2).floor()], dim=1)
        medians.append(ordered[torch.searchsorted(upto, middle, right=True)].mean(1))
    return torch.cat(medians)


def bootstrap_counts(groups: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Tensor]:
    """How often each query stands in each resample of the groups, for statistics that are no means over queries.

    Args:
        groups: (q,) integer, q at least 1; queries of one group are drawn together, as `bootstrap_means` draws them.
        resamples: number of resamples.
        seed: of the draw.

    Yields:
        (q, r) float32 counts, contiguous, the r of all blocks adding up to ``resamples``.

    Raises:
        ShapeError: no query, or groups that are no ids.

    Example:
        >>> counts = torch.cat(list(bootstrap_counts(torch.tensor([0, 0, 1]))), dim=1)
        >>> counts.shape, bool((counts[0] == counts[1]).all())
        (torch.Size([3, 1000]), True)
    """
    cluster, num_clusters = _clusters(groups.new_zeros(len(groups), dtype=torch.float64), groups)
    for drawn in _draws(num_clusters, len(groups), resamples=resamples, seed=seed):
        yield drawn.T.float().contiguous()[cluster]


def ci95(replicates: Tensor, *, num_groups: int | None = None) -> list[float]:
    """``[low, high]``: the 2.5 % and 97.5 % quantiles of bootstrap replicates (r,), wider where groups are few.

    With g groups the quantiles are those of levels ``a`` and ``1 - a``, ``a = Phi(-sqrt(g / (g - 1)) * t)``, where t is
    the 97.5 % point of Student's distribution of g - 1 degrees of freedom: percentile intervals of the mean of a
    Gaussian then cover it as often as the classical ones, and no interval leaves the range of the replicates. Means of
    a metric with a long tail, such as the mean rank, are covered less often than said (92 % in a simulation of 100
    groups, where recall and MRR had 95 %); more groups help. Where all items score the same, the interval is that
    point: resampling cannot show what was never seen.

    Args:
        replicates: (r,), at least one.
        num_groups: how many groups were resampled; None, or below 2, where nothing can be known of the spread: the
            plain quantiles.
    """
    level = 0.025 if num_groups is None or num_groups < 2 else _expanded_level(num_groups)
    low, high = replicates.quantile(torch.tensor([level, 1 - level], dtype=replicates.dtype)).tolist()
    return [low, high]


def mean_ci95(values: Tensor, groups: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> list[float]:
    """The interval of the mean of ``values`` (q,): `bootstrap_means` and `ci95` in one.

    Args:
        values: (q,), at least one.
        groups: (q,) integer; items of one group are drawn together.
        resamples: number of resamples.
        seed: of the draw.

    Returns:
        ``[low, high]``.

    Raises:
        ShapeError: no item, NaN, or shapes that do not fit.

    Example:
        >>> low, high = mean_ci95(torch.tensor([0.0, 1.0, 1.0, 1.0]), torch.arange(4))
        >>> low < 0.75 <= high
        True
    """
    means = bootstrap_means(values[:, None], groups, resamples=resamples, seed=seed)[:, 0]
    return ci95(means, num_groups=len(groups.unique()))


def _expanded_level(num_groups: int) -> float:
    """The lower level of `ci95`; with very few groups so low that the interval is the whole range of the replicates.

    Source: the point of Student's distribution by Abramowitz & Stegun 1964, 26.7.5, which is short of it by 3 % for 3
    groups and by 0.1 % for 6.
    """
    freedom, z = num_groups - 1, 1.959963984540054
    student = (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
    return math.erfc(math.sqrt(num_groups / freedom) * student / math.sqrt(2)) / 2


def _clusters(values: Tensor, groups: Tensor) -> tuple[Tensor, int]:
    """The groups (q,) as numbers without gaps, and how many there are."""
    groups = check_ids("groups", groups, length=len(values), of="values")
    if not len(values):
        raise ShapeError("values needs at least one query, got none")
    if not values.isfinite().all():
        raise ShapeError("values holds NaN or infinity; a metric of one query is always a finite number")
    ids, cluster = groups.unique(return_inverse=True)
    return cluster, len(ids)


def _draws(num_clusters: int, width: int, *, resamples: int, seed: int) -> Iterator[Tensor]:
    """Blocks (r, num_clusters) float64 of how often each group was drawn, for a caller who makes (r, width) of each."""
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _BUDGET // max(num_clusters, width))
    for start in range(0, resamples, block):
        picks = torch.randint(num_clusters, (min(block, resamples - start), num_clusters), generator=generator)
        drawn = torch.zeros(picks.shape, dtype=torch.float64)
        yield drawn.scatter_add_(1, picks, torch.ones_like(drawn))
