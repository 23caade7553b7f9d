"""Maximum mean discrepancy against loops in float64, its estimators and bandwidths, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmcl.errors import ConfigError, MmclError, ShapeError
from mmcl.losses.mmd import ESTIMATORS, FACTORS, MEDIAN_ROWS, median_distance, mmd

DIM = 3


def features(seed: int, count: int, dim: int = DIM) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(source: Tensor, target: Tensor, bandwidths: list[float], estimator: str) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        squared = ((a - b) ** 2).sum()
        return sum(torch.exp(-squared / (2 * sigma**2)) for sigma in bandwidths) / len(bandwidths)

    def within(x: Tensor) -> Tensor:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if estimator == "biased" or i != j]
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    between = sum(kernel(a, b) for a in source for b in target) / (len(source) * len(target))
    return within(source) + within(target) - 2 * between


def naive_median(source: Tensor, target: Tensor) -> float:
    rows = [*source.detach(), *target.detach()]
    apart = sorted(float((a - b).norm()) for i, a in enumerate(rows) for b in rows[:i])
    return apart[(len(apart) - 1) // 2]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bandwidths", [None, [0.7], [0.5, 3.0]], ids=["median", "one", "two"])
def test_equals_loops(
    estimator: str, bandwidths: list[float] | None, blocks: str, assert_equal_to_naive: Callable[..., None]
) -> None:
    def loops(x: Tensor, y: Tensor) -> Tensor:
        chosen = [factor * naive_median(x, y) for factor in FACTORS] if bandwidths is None else bandwidths
        return naive(x, y, chosen, estimator)

    assert_equal_to_naive(
        lambda x, y: mmd(x, y, bandwidths=bandwidths, estimator=estimator), loops, features(0, 6), features(1, 8) + 0.5
    )


def test_estimators_and_bandwidths_differ() -> None:
    x, y = features(0, 6), features(1, 8)
    values = [mmd(x, y, bandwidths=chosen, estimator=name) for chosen in (None, [0.5], [1.0]) for name in ESTIMATORS]
    assert len({round(float(value), 6) for value in values}) == len(values)


def test_equal_sets_are_at_zero_and_far_ones_at_two() -> None:
    x = features(0, 6)
    assert float(mmd(x, x.flip(0))) == pytest.approx(0.0, abs=1e-12)
    assert float(mmd(x, x + 1e-3)) > 1e-9
    one = x[:1].repeat(4, 1)
    assert float(mmd(one, one + 1000, bandwidths=[1.0])) == pytest.approx(2.0)
    assert float(mmd(x, x.flip(0), estimator="unbiased")) < -1e-3


def test_unbiased_is_zero_on_average_and_biased_is_not() -> None:
    draws = [(features(seed, 4), features(1000 + seed, 4)) for seed in range(200)]
    means = {
        name: sum(float(mmd(x, y, bandwidths=[1.0], estimator=name)) for x, y in draws) / 200 for name in ESTIMATORS
    }
    assert abs(means["unbiased"]) < 0.02
    assert means["biased"] > 0.1


def test_wide_kernels_see_the_distance_of_the_means() -> None:
    x, y = features(0, 6), features(1, 8) + 1
    found = 2 * 1e4**2 * mmd(x, y, bandwidths=[1e4])
    expected = 2 * (x.mean(0) - y.mean(0)).square().sum()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert float(2 * mmd(x, y, bandwidths=[1.0])) != pytest.approx(float(expected), rel=1e-2)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_step_brings_the_sets_together(estimator: str) -> None:
    target = features(1, 40) + 1
    leaf = features(0, 30).requires_grad_()
    loss = mmd(leaf, target, estimator=estimator)
    loss.backward()
    nearer, farther = ((leaf.detach() + step * leaf.grad - target.mean(0)).mean(0).norm() for step in (-5.0, 5.0))
    assert nearer < (leaf.detach() - target.mean(0)).mean(0).norm() < farther
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, mmd(leaf[order], target.flip(0), estimator=estimator))
    torch.testing.assert_close(loss, mmd(target, leaf, estimator=estimator))


def test_the_median_is_that_of_all_pairs_and_has_no_gradient() -> None:
    x, y = features(0, 6).requires_grad_(), features(1, 8)
    found = median_distance(x, y)
    assert float(found) == pytest.approx(naive_median(x, y))
    assert not found.requires_grad
    assert float(median_distance(torch.ones(3, DIM), torch.ones(2, DIM))) == 1.0
    many = median_distance(features(0, MEDIAN_ROWS, 64), features(1, MEDIAN_ROWS, 64))
    assert float(many) == pytest.approx(math.sqrt(2 * 64), rel=0.05)
    scaled = mmd(10 * x, 10 * y)
    torch.testing.assert_close(scaled, mmd(x, y))
    assert not torch.isclose(mmd(10 * x, 10 * y, bandwidths=[1.0]), mmd(x, y, bandwidths=[1.0]))


def test_equal_rows_have_a_finite_gradient() -> None:
    x = torch.ones(4, DIM, requires_grad=True)
    loss = mmd(x, torch.ones(3, DIM))
    loss.backward()
    assert float(loss.detach()) == float(x.grad.abs().max()) == 0.0
    single = mmd(torch.zeros(1, DIM), torch.ones(1, DIM), bandwidths=[1.0])
    assert float(single) == pytest.approx(2 - 2 * math.exp(-DIM / 2))


def test_autocast_changes_nothing_and_nan_stays_visible(blocks: str) -> None:
    x, y = features(0, 6).float(), features(1, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = mmd(x, y)
    assert float(inside) == float(mmd(x, y))
    y[1, 1] = math.nan
    assert math.isnan(float(mmd(x, y)))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"source": torch.ones(5)}, ShapeError, "source needs shape"),
        ({"target": torch.ones(5, DIM + 1)}, ShapeError, "target needs shape"),
        ({"source": torch.ones(0, DIM)}, ShapeError, "source holds no rows"),
        ({"target": torch.ones(1, DIM), "estimator": "unbiased"}, ShapeError, "target holds one row; .* needs 2"),
        ({"bandwidths": []}, ShapeError, "bandwidths are empty"),
        ({"bandwidths": [1.0, 0.0]}, ShapeError, "a bandwidth is 0.0"),
        ({"bandwidths": [math.nan]}, ShapeError, "a bandwidth is nan"),
        ({"estimator": "unbaised"}, ConfigError, "estimator is 'unbaised'.*did you mean 'unbiased'"),
    ],
)
def test_wrong_arguments_are_named(change: dict, error: type[MmclError], named: str) -> None:
    given = {"source": features(0, 5), "target": features(1, 8)}
    assert torch.isfinite(mmd(**given))
    with pytest.raises(error, match=named):
        mmd(**{**given, **change})
