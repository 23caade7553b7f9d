"""Barlow Twins against loops in float64, what it sees and what not, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses.barlow_twins import barlow_twins
from mmcl.losses.vicreg import vicreg

ROWS, DIM = 7, 4


def features(seed: int, count: int = ROWS) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(x: Tensor, y: Tensor, weight: float = 5e-3, epsilon: float = 1e-5) -> Tensor:
    def standardised(view: Tensor) -> list[list[Tensor]]:
        columns = []
        for column in view.T:
            mean = sum(column) / len(column)
            variance = sum((value - mean) ** 2 for value in column) / len(column)
            columns.append([(value - mean) / (variance + epsilon).sqrt() for value in column])
        return columns

    loss = 0.0
    for k, one in enumerate(standardised(x)):
        for other_k, other in enumerate(standardised(y)):
            correlation = sum(a * b for a, b in zip(one, other)) / len(x)
            loss = loss + ((1 - correlation) ** 2 if k == other_k else weight * correlation**2)
    return loss


@pytest.mark.parametrize("options", [(), (0.3, 1e-5), (5e-3, 0.1)], ids=["paper", "weight", "epsilon"])
def test_equals_loops(options: tuple, assert_equal_to_naive: Callable[..., None]) -> None:
    named = dict(zip(("redundancy_weight", "epsilon"), options))
    assert_equal_to_naive(
        lambda x, y: barlow_twins(x, y, **named), lambda x, y: naive(x, y, *options), features(0), features(1)
    )


def test_options_change_the_value() -> None:
    x, y = features(0), features(1)
    values = [barlow_twins(x, y), barlow_twins(x, y, redundancy_weight=0.3), barlow_twins(x, y, epsilon=0.1)]
    assert len({round(float(value), 6) for value in values}) == 3


def test_views_that_agree_are_better_and_a_step_makes_them_agree() -> None:
    x, y = features(0, 64), features(1, 64)
    assert barlow_twins(x, x) < 0.1 < barlow_twins(x, x.roll(1, 0))
    assert barlow_twins(x, -x) > barlow_twins(x, y) > barlow_twins(x, x)
    raw = y.clone().requires_grad_()
    barlow_twins(x, raw).backward()

    def correlation(view: Tensor) -> float:
        stacked = torch.corrcoef(torch.cat((x, view.detach()), dim=1).T)
        return float(stacked[:DIM, DIM:].diagonal().mean())

    assert correlation(raw - raw.grad) > correlation(raw) > correlation(raw + raw.grad)


def test_redundant_coordinates_cost() -> None:
    x = features(0, 64)
    twice = x[:, [0, 0, 1, 1]]
    assert barlow_twins(twice, twice, redundancy_weight=1.0) > 3 > barlow_twins(x, x, redundancy_weight=1.0)
    assert barlow_twins(twice, twice, redundancy_weight=0.0) < 1e-6


def test_of_one_standardised_view_its_redundancy_is_the_covariance_term_of_vicreg() -> None:
    x = features(0)
    x = (x - x.mean(0)) / x.std(0, correction=0)
    redundancy = barlow_twins(x, x, redundancy_weight=1.0, epsilon=1e-12)
    covariances = vicreg(x, x, invariance=0.0, variance=0.0) / 2  # of two views
    torch.testing.assert_close(redundancy, covariances * DIM * ((ROWS - 1) / ROWS) ** 2)
    assert not torch.isclose(barlow_twins(x, features(1), redundancy_weight=1.0), redundancy)


def test_shift_scale_and_order_do_not_matter_and_pairing_does() -> None:
    x, y, order = features(0), features(1), torch.tensor([4, 0, 6, 2, 5, 1, 3])
    loss = barlow_twins(x, y, epsilon=1e-12)
    torch.testing.assert_close(loss, barlow_twins(3 * x + 1, y, epsilon=1e-12))
    torch.testing.assert_close(loss, barlow_twins(x[order], y[order], epsilon=1e-12))
    torch.testing.assert_close(loss, barlow_twins(y, x, epsilon=1e-12))
    assert not torch.isclose(loss, barlow_twins(x, y[order], epsilon=1e-12))


def test_collapsed_coordinates_cost_one_each_and_have_a_finite_gradient() -> None:
    x = torch.full((ROWS, DIM), 0.1).requires_grad_()
    loss = barlow_twins(x, x)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(DIM, abs=1e-4)
    assert torch.isfinite(x.grad).all()


def test_autocast_changes_nothing_and_nan_stays_visible() -> None:
    x, y = features(0).float(), features(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert float(barlow_twins(x, y)) == float(barlow_twins(x.clone(), y.clone()))
        assert (x.T @ y).dtype == torch.bfloat16
        inside = barlow_twins(x, y)
    assert float(inside) == float(barlow_twins(x, y))
    x[1, 1] = math.nan
    assert math.isnan(float(barlow_twins(x, y)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.ones(3, DIM)}, "x and y need equal shapes"),
        ({"x": torch.ones(0, DIM), "y": torch.ones(0, DIM)}, "no rows"),
        ({"x": torch.ones(1, DIM), "y": torch.ones(1, DIM)}, "x holds one row; .* needs 2"),
        ({"redundancy_weight": -0.1}, "redundancy_weight is -0.1"),
        ({"redundancy_weight": math.nan}, "redundancy_weight is nan"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str) -> None:
    given = {"x": features(0), "y": features(1)}
    assert torch.isfinite(barlow_twins(**given))
    with pytest.raises(ShapeError, match=named):
        barlow_twins(**{**given, **change})
