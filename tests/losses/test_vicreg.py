"""VICReg against loops in float64, its terms one by one, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ShapeError
from mmcl.losses.vicreg import vicreg

ROWS, DIM = 7, 4
NOTHING = {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}


def features(seed: int, count: int = ROWS) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(x: Tensor, y: Tensor, *options: float) -> Tensor:
    invariance, variance, covariance, epsilon = (*options, *(25.0, 25.0, 1.0, 1e-4)[len(options) :])
    count, dim = x.shape
    loss = invariance * sum((x[i, k] - y[i, k]) ** 2 for i in range(count) for k in range(dim)) / (count * dim)
    for view in (x, y):
        means = [sum(column) / count for column in view.T]
        for k in range(dim):
            for other in range(dim):
                products = [(view[i, k] - means[k]) * (view[i, other] - means[other]) for i in range(count)]
                found = sum(products) / (count - 1)
                if k == other:
                    loss = loss + variance * torch.clamp(1 - (found + epsilon).sqrt(), min=0) / dim
                else:
                    loss = loss + covariance * found**2 / dim
    return loss


@pytest.mark.parametrize("options", [(), (1.0, 2.0, 3.0), (0.0, 1.0, 0.5, 0.1)], ids=["paper", "weights", "epsilon"])
def test_equals_loops(options: tuple, assert_equal_to_naive: Callable[..., None]) -> None:
    named = dict(zip(("invariance", "variance", "covariance", "epsilon"), options))
    assert_equal_to_naive(
        lambda x, y: vicreg(x, y, **named), lambda x, y: naive(x, y, *options), 0.7 * features(0), 0.9 * features(1)
    )


def test_it_is_the_sum_of_its_terms() -> None:
    x, y = features(0), features(1)
    weights = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    terms = [vicreg(x, y, **{**NOTHING, name: weight}) for name, weight in weights.items()]
    torch.testing.assert_close(sum(terms), vicreg(x, y))
    assert all(float(term) > 1e-3 for term in terms)
    assert len({round(float(term), 6) for term in terms}) == 3
    torch.testing.assert_close(terms[0], 25 * F.mse_loss(x, y))


def test_views_that_agree_are_better_and_a_step_makes_them_agree() -> None:
    x, y = features(0), features(1)
    assert vicreg(x, x) < vicreg(x, x.roll(1, 0))
    raw = y.clone().requires_grad_()
    vicreg(x, raw).backward()
    nearer, farther = (float((x - raw.detach() - step * raw.grad).square().mean()) for step in (-0.01, 0.01))
    assert nearer < float((x - y).square().mean()) < farther


def test_a_step_widens_what_collapses_and_parts_what_varies_together() -> None:
    narrow = (0.1 * features(0)).requires_grad_()
    vicreg(narrow, narrow, **{**NOTHING, "variance": 1.0}).backward()
    assert bool(((narrow.detach() - narrow.grad).std(0) > narrow.detach().std(0)).all())
    redundant = features(0)[:, [0, 0, 1, 1]] + 0.1 * features(1)
    leaf = redundant.clone().requires_grad_()
    vicreg(leaf, leaf, **{**NOTHING, "covariance": 1.0}).backward()
    before, after = (torch.cov(view.T) for view in (redundant, leaf.detach() - 0.1 * leaf.grad))
    assert after[0, 1] < before[0, 1]
    assert after[2, 3] < before[2, 3]


def test_uncorrelated_coordinates_leave_no_covariance() -> None:
    draw = torch.Generator().manual_seed(0)
    centred = torch.randn(256, 64, generator=draw, dtype=torch.float64)
    centred = 16 * torch.linalg.qr(centred - centred.mean(0)).Q.float()
    left = float(vicreg(centred, centred, **{**NOTHING, "covariance": 1.0}))
    assert 0 < left < 1e-10
    covariance = torch.cov(centred.T)
    by_difference = covariance.square().sum() - covariance.diagonal().square().sum()
    assert abs(float(by_difference) / 64 - left) > left / 2  # too small for a difference of sums to hold


def test_collapsed_views_cost_the_variance_and_have_a_finite_gradient() -> None:
    x = torch.full((ROWS, DIM), 0.1).requires_grad_()
    loss = vicreg(x, x)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(25 * 2 * (1 - 0.01), rel=1e-5)
    assert torch.isfinite(x.grad).all()


def test_order_and_shift_do_not_matter_and_pairing_does() -> None:
    x, y, order = features(0), features(1), torch.tensor([4, 0, 6, 2, 5, 1, 3])
    loss = vicreg(x, y)
    torch.testing.assert_close(loss, vicreg(x[order], y[order]))
    torch.testing.assert_close(loss, vicreg(y + 5, x + 5))
    assert not torch.isclose(loss, vicreg(x, y[order]))


def test_autocast_changes_nothing_and_nan_stays_visible() -> None:
    x, y = features(0).float(), features(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = vicreg(x, y)
    assert float(inside) == float(vicreg(x, y))
    x[1, 1] = math.nan
    assert math.isnan(float(vicreg(x, y)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.ones(3, DIM)}, "x and y need equal shapes"),
        ({"x": torch.ones(0, DIM), "y": torch.ones(0, DIM)}, "no rows"),
        ({"x": torch.ones(1, DIM), "y": torch.ones(1, DIM)}, "x holds one row; .* needs 2"),
        ({"invariance": -1.0}, "invariance is -1.0"),
        ({"variance": math.inf}, "variance is inf"),
        ({"covariance": math.nan}, "covariance is nan"),
        ({"epsilon": 0.0}, "epsilon is 0.0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str) -> None:
    given = {"x": features(0), "y": features(1)}
    assert torch.isfinite(vicreg(**given))
    with pytest.raises(ShapeError, match=named):
        vicreg(**{**given, **change})
