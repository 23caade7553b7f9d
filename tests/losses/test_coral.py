"""CORAL against loops in float64, what it sees and what not, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses.coral import coral

DIM = 4


def features(seed: int, count: int) -> Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(source: Tensor, target: Tensor) -> Tensor:
    def covariance(x: Tensor, k: int, other: int) -> Tensor:
        means = [sum(x[:, c]) / len(x) for c in (k, other)]
        return sum((row[k] - means[0]) * (row[other] - means[1]) for row in x) / (len(x) - 1)

    every = [(k, other) for k in range(DIM) for other in range(DIM)]
    return sum((covariance(source, *at) - covariance(target, *at)) ** 2 for at in every) / (4 * DIM**2)


def test_equals_loops(assert_equal_to_naive: Callable[..., None]) -> None:
    assert_equal_to_naive(coral, naive, features(0, 5), features(1, 8))


def test_it_sees_spread_and_correlation_but_no_shift_and_no_order() -> None:
    x, y = features(0, 5), features(1, 8)
    loss = coral(x, y)
    torch.testing.assert_close(loss, coral(x + 3, y.flip(0) - 1))
    torch.testing.assert_close(loss, coral(y, x))
    assert float(coral(x, x.flip(0) + 7)) == pytest.approx(0.0, abs=1e-12)
    assert float(coral(x, 2 * x)) > 1e-3
    mirrored = x * torch.tensor([1.0, -1.0, 1.0, 1.0])  # the same variances, other correlations
    assert float(coral(x, mirrored)) > 1e-3


def test_it_is_the_mean_discrepancy_of_centred_rows_under_a_squared_product() -> None:
    x, y = (rows - rows.mean(0) for rows in (features(0, 8), features(1, 8)))
    kernels = [(a @ b.T).square().mean() for a, b in ((x, x), (y, y), (x, y))]
    discrepancy = kernels[0] + kernels[1] - 2 * kernels[2]
    torch.testing.assert_close(coral(x, y) * 4 * DIM**2 * (7 / 8) ** 2, discrepancy)
    assert not torch.isclose(coral(x, 2 * y) * 4 * DIM**2 * (7 / 8) ** 2, discrepancy)


def test_a_step_brings_the_covariances_together() -> None:
    target = 2 * features(1, 30)
    leaf = features(0, 20).requires_grad_()
    loss = coral(leaf, target)
    loss.backward()
    nearer, farther = (coral(leaf.detach() + step * leaf.grad, target) for step in (-1.0, 1.0))
    assert nearer < loss < farther


def test_equal_rows_are_a_covariance_of_zero() -> None:
    x = torch.ones(3, DIM, requires_grad=True)
    loss = coral(x, features(0, 5).float())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(torch.cov(features(0, 5).T).square().sum()) / 64, rel=1e-5)
    assert float(x.grad.abs().max()) == 0.0


def test_autocast_changes_nothing_and_nan_stays_visible() -> None:
    x, y = features(0, 5).float(), features(1, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = coral(x, y)
    assert float(inside) == float(coral(x, y))
    y[1, 1] = math.nan
    assert math.isnan(float(coral(x, y)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"source": torch.ones(5)}, "source needs shape"),
        ({"target": torch.ones(5, DIM + 1)}, r"target needs shape \(n, 4\), got \(5, 5\)"),
        ({"source": torch.ones(0, DIM)}, "source holds no rows"),
        ({"source": torch.ones(1, DIM)}, "source holds one row; .* needs 2"),
        ({"target": torch.ones(1, DIM)}, "target holds one row; .* needs 2"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str) -> None:
    given = {"source": features(0, 5), "target": features(1, 8)}
    assert torch.isfinite(coral(**given))
    with pytest.raises(ShapeError, match=named):
        coral(**{**given, **change})
