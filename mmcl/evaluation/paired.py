"""Paired differences of the same items: their intervals by a bootstrap, their p-values by a permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.evaluation.bootstrap import RESAMPLES, bootstrap_means, ci95
from mmcl.evaluation.checks import check_ids

PERMUTATIONS = 10_000
# Signs held at a time while permuting.
_BUDGET = 2**20


@dataclass(frozen=True)
class PairedDifference:
    """How much higher B's mean is than A's, over the same items.

    Attributes:
        difference: the mean of b - a.
        ci95: its 95 % interval.
        p_value: how often chance alone makes a difference at least as large, either way; in (0, 1].
        num_groups: groups of items, which are what is resampled.
    """

    difference: float
    ci95: list[float]
    p_value: float
    num_groups: int


def paired_difference(
    a: Tensor, b: Tensor, groups: Tensor, *, resamples: int = RESAMPLES, seed: int = 0
) -> PairedDifference:
    """How much higher the mean of ``b`` is than that of ``a``: see `paired_differences`, for one metric.

    Args:
        a, b: (q,) of the same q items.
        groups: (q,) integer.
        resamples: of the bootstrap.
        seed: of the draws.

    Raises:
        ShapeError: shapes do not fit, no item, or NaN.

    Example:
        >>> paired_difference(torch.zeros(8), torch.ones(8), torch.arange(8)).p_value == 2 / 2**8
        True
    """
    if a.ndim != 1:
        raise ShapeError(f"a needs one axis (items), got shape {tuple(a.shape)}")
    return paired_differences(a[:, None], b[:, None], groups, resamples=resamples, seed=seed)[0]


def paired_differences(
    a: Tensor, b: Tensor, groups: Tensor, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[PairedDifference]:
    """Paired differences of several metrics of the same items.

    The interval is that of a bootstrap over groups. The p-value is that of a two-sided permutation test: were the
    models alike, each group's sum of differences could as well have the other sign. All ``2**g`` choices of signs are
    counted where these are at most `PERMUTATIONS`, that is up to 13 groups that differ; else so many are drawn, and the
    observed one counts as one of them, so that p is at least ``1 / (PERMUTATIONS + 1)`` and never 0.

    Args:
        a, b: (q, s), one row an item, one column a metric.
        groups: (q,) integer; items of one group change sign, and are drawn, together.
        resamples: of the bootstrap.
        seed: of the draws.

    Returns:
        One a metric. Where no item differs: a difference of 0, the interval [0, 0] and p = 1.

    Raises:
        ShapeError: shapes do not fit, no item, or NaN.

    Source:
        Good 2005, "Permutation, Parametric and Bootstrap Tests of Hypotheses", section 3.7 (matched pairs); Davison &
        Hinkley 1997, section 4.3 (the observed one is counted with those that are drawn).
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ShapeError(f"a and b need one shape (items, metrics), got {tuple(a.shape)} and {tuple(b.shape)}")
    groups = check_ids("groups", groups, length=len(a), of="a")
    change = b.double() - a.double()  # (q, s)
    replicates = bootstrap_means(change, groups, resamples=resamples, seed=seed)  # checks for NaN and no item
    ids, cluster = groups.unique(return_inverse=True)
    sums = torch.zeros(len(ids), change.shape[1], dtype=torch.float64).index_add_(0, cluster, change)
    return [
        PairedDifference(
            difference=float(change[:, column].mean()),
            ci95=ci95(replicates[:, column], num_groups=len(ids)),
            p_value=p_value,
            num_groups=len(ids),
        )
        for column, p_value in enumerate(_sign_flip(sums, seed=seed))
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, so that the chance of any false alarm among them stays below the level.

    The i-th smallest of k, from 0, is multiplied by k - i; none may be below a smaller one's, or above 1.

    Args:
        p_values: k, each in [0, 1].

    Returns:
        k, in the order given.

    Source:
        Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values)[order] * (len(p_values) - np.arange(len(p_values))))
    return np.minimum(adjusted, 1.0).tolist()


def _sign_flip(sums: Tensor, *, seed: int) -> list[float]:
    """The two-sided p-values of the column sums of ``sums`` (g, s) under changes of the rows' signs."""
    total, size = sums.sum(0), sums.abs().sum(0)
    # Sums of the same numbers in other orders differ in their last bits; such a sum counts as equal.
    limits = total.abs() - 1e-12 * size
    differing = (sums != 0).sum(0)
    exact = 2.0 ** differing.double() <= PERMUTATIONS
    p_values = torch.ones(sums.shape[1], dtype=torch.float64)
    for column in exact.nonzero()[:, 0].tolist():
        mine = sums[sums[:, column] != 0, column]
        flipped = (torch.arange(2 ** len(mine))[:, None] >> torch.arange(len(mine))) & 1  # (2**g, g)
        permuted = mine.sum() - 2 * (flipped.double() @ mine)
        p_values[column] = (permuted.abs() >= limits[column]).double().mean()
    if exact.all():
        return p_values.tolist()
    generator = torch.Generator().manual_seed(seed)
    block, extreme = max(1, _BUDGET // len(sums)), torch.zeros(sums.shape[1], dtype=torch.int64)
    for start in range(0, PERMUTATIONS, block):
        shape = (min(block, PERMUTATIONS - start), len(sums))
        flipped = torch.randint(2, shape, generator=generator, dtype=torch.int8).double()
        # A sum after flipping: all of it, less twice what was flipped.
        extreme += ((total - 2 * (flipped @ sums)).abs() >= limits).sum(0)
    return torch.where(exact, p_values, (1 + extreme).double() / (1 + PERMUTATIONS)).tolist()
