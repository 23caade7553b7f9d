"""How often the bootstrap's 95 % intervals hold the truth, over simulated data sets of clustered queries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmcl.evaluation.bootstrap import bootstrap_means, bootstrap_medians, ci95, mean_ci95
from mmcl.evaluation.paired import paired_difference

GROUPS = 100
DATA_SETS = 400


def draw(kind: str, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """About 200 queries in 100 groups of one to three, the queries of one group alike; and the true mean."""
    groups = torch.arange(GROUPS).repeat_interleave(torch.randint(1, 4, (GROUPS,), generator=generator))
    shared = torch.randn(GROUPS, generator=generator, dtype=torch.float64)[groups]
    own = torch.randn(len(groups), generator=generator, dtype=torch.float64)
    skill = 0.8 * shared + 0.6 * own  # standard normal, correlated by 0.64 within a group
    if kind == "recall":
        return (skill < -0.5244).double(), groups, 0.3
    if kind == "mrr":
        # Ranks of 1, 2, 4, 8, ... by quarters of the normal's distribution: the mean of 1 / rank is known.
        cuts = torch.tensor([-0.6745, 0.0, 0.6745], dtype=torch.float64)
        return 0.5 ** torch.bucketize(skill, cuts).double(), groups, (1 + 1 / 2 + 1 / 4 + 1 / 8) / 4
    return skill.exp(), groups, math.exp(0.5)


def coverage(kind: str, *, heed_groups: bool = True, resamples: int = 400) -> float:
    generator = torch.Generator().manual_seed(11)
    covered = 0
    for number in range(DATA_SETS):
        values, groups, truth = draw(kind, generator)
        groups = groups if heed_groups else torch.arange(len(values))
        low, high = mean_ci95(values, groups, resamples=resamples, seed=number)
        covered += low <= truth <= high
    return covered / DATA_SETS


@pytest.mark.parametrize("kind", ["recall", "mrr"])
def test_intervals_hold_the_truth_95_times_in_100(kind: str) -> None:
    assert 0.93 <= coverage(kind) <= 0.97


@pytest.mark.parametrize("kind", ["recall", "mrr"])
def test_intervals_of_queries_resampled_alone_are_too_narrow(kind: str) -> None:
    assert coverage(kind, heed_groups=False) < 0.92


def test_intervals_of_the_median_hold_the_truth() -> None:
    generator = torch.Generator().manual_seed(12)
    covered = 0
    for number in range(200):
        values, groups, _ = draw("skewed", generator)
        low, high = ci95(bootstrap_medians(values, groups, resamples=300, seed=number), num_groups=GROUPS)
        covered += low <= 1.0 <= high
    assert 0.92 <= covered / 200 <= 0.98


def test_intervals_of_paired_differences_hold_the_truth() -> None:
    generator = torch.Generator().manual_seed(13)
    covered = 0
    for number in range(200):
        a, groups, _ = draw("recall", generator)
        b = ((torch.rand(len(a), generator=generator) < 0.2) | a.bool()).double()  # finds a fifth of what a missed
        found = paired_difference(a, b, groups, resamples=300, seed=number)
        covered += found.ci95[0] <= 0.7 * 0.2 <= found.ci95[1]
    assert 0.92 <= covered / 200 <= 0.98


def test_few_groups_widen_the_interval_and_never_past_the_replicates() -> None:
    values = torch.rand(12, 1, generator=torch.Generator().manual_seed(14))
    replicates = bootstrap_means(values, torch.arange(12))[:, 0]
    plain, wide = ci95(replicates), ci95(replicates, num_groups=12)
    assert replicates.min() <= wide[0] < plain[0] < plain[1] < wide[1] <= replicates.max()
    assert ci95(replicates, num_groups=3) == pytest.approx([float(replicates.min()), float(replicates.max())], abs=1e-4)
    assert ci95(replicates, num_groups=10**6) == pytest.approx(plain, abs=1e-5)
    assert ci95(replicates, num_groups=1) == plain
    assert mean_ci95(values[:, 0], torch.arange(12)) == wide


def test_the_widened_levels_are_those_of_students_distribution() -> None:
    from scipy import stats

    from mmcl.evaluation.bootstrap import _expanded_level

    for groups, error in ((4, 0.15), (6, 0.02), (20, 1e-4), (1000, 1e-6)):
        point = math.sqrt(groups / (groups - 1)) * stats.t.ppf(0.975, groups - 1)
        assert _expanded_level(groups) == pytest.approx(stats.norm.cdf(-point), rel=error)
