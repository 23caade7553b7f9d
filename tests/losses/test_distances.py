"""Distances by name against loops, at coinciding rows, near them, and what they must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError, ShapeError
from mmcl.losses import row_blocks
from mmcl.losses.distances import DISTANCES, pairwise_distances, row_distances, unit_rows


def rows(count: int, seed: int, dim: int = 5) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(x: Tensor, y: Tensor, distance: str) -> Tensor:
    if distance == "cosine":
        return 1 - (x * y).sum() / ((x * x).sum().sqrt() * (y * y).sum().sqrt())
    if distance == "manhattan":
        return sum((a - b).abs() for a, b in zip(x, y))
    squared = sum((a - b) ** 2 for a, b in zip(x, y))
    return squared if distance == "squared_euclidean" else squared.sqrt()


@pytest.mark.parametrize("distance", DISTANCES)
def test_rows_equal_loops(distance: str, assert_equal_to_naive: Callable[..., None]) -> None:
    weights = torch.arange(1.0, 5.0, dtype=torch.float64) / 10

    def loss(x: Tensor, y: Tensor) -> Tensor:
        found = row_distances(x, y, distance)
        return (found * weights.to(found.dtype)).sum()

    def loops(x: Tensor, y: Tensor) -> Tensor:
        return sum(w * naive(a, b, distance) for w, a, b in zip(weights, x, y))

    assert_equal_to_naive(loss, loops, rows(4, 0), rows(4, 1))


@pytest.mark.parametrize("distance", DISTANCES)
def test_all_pairs_equal_loops(distance: str, blocks: str, assert_equal_to_naive: Callable[..., None]) -> None:
    weights = rows(4, 2, 6) / 10

    def loss(x: Tensor, y: Tensor) -> Tensor:
        found = pairwise_distances(x, y, distance)
        return (found * weights.to(found.dtype)).sum()

    def loops(x: Tensor, y: Tensor) -> Tensor:
        return sum(weights[i, j] * naive(x[i], y[j], distance) for i in range(4) for j in range(6))

    assert_equal_to_naive(loss, loops, rows(4, 0), rows(6, 1))


def test_names_mean_different_distances() -> None:
    x, y = rows(3, 0), rows(3, 1)
    values = [round(float(row_distances(x, y, name).sum()), 6) for name in DISTANCES]
    assert len(set(values)) == len(DISTANCES) == 4


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coinciding_rows_have_zero_distance_and_zero_gradient(distance: str, dtype: torch.dtype) -> None:
    x = rows(6, 0, 64).to(dtype).requires_grad_()
    y = x.detach().clone().requires_grad_()
    row_distances(x, y, distance).sum().backward()
    pairwise = pairwise_distances(x, y, distance)
    pairwise.diagonal().sum().backward()
    bound = 0.0 if distance != "cosine" else 1e-12 if dtype == torch.float64 else 1e-6
    assert float(pairwise.detach().diagonal().abs().max()) <= bound
    assert float(torch.stack((x.grad, y.grad)).abs().max()) < 1e-6
    # A control: the plain formulas give the square root of rounding errors, or NaN.
    naive_gradient = torch.autograd.grad((x - y).square().sum(1).sqrt().sum(), x)[0]
    assert bool(naive_gradient.isnan().all())


@pytest.mark.parametrize("offset", [1e-2, 1e-4])
def test_near_pairs_are_told_apart_exactly(offset: float) -> None:
    x = F.normalize(rows(40, 0, 256), dim=1).float()
    y = (x + offset * F.normalize(rows(40, 1, 256), dim=1)).float()
    exact = torch.linalg.vector_norm(x.double() - y.double(), dim=1)
    found = pairwise_distances(x, y, "euclidean").diagonal()
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    in_single = (2 - 2 * (x @ y.T).diagonal()).clamp(min=0).sqrt()
    assert float((in_single - exact).abs().max() / offset) > 1e-4
    # Gradients too: the direction of one row from the other.
    leaf = x.clone().requires_grad_()
    pairwise_distances(leaf, y, "euclidean").diagonal().sum().backward()
    direction = (x.double() - y.double()) / exact[:, None]
    assert float((leaf.grad - direction).abs().max()) < 1e-6 / offset


def test_of_unit_rows_the_squared_euclidean_distance_is_twice_the_cosine_distance() -> None:
    x, y = unit_rows(rows(4, 0)), unit_rows(rows(6, 1))
    squared = pairwise_distances(x, y, "squared_euclidean")
    torch.testing.assert_close(squared, 2 * pairwise_distances(x, y, "cosine"))
    torch.testing.assert_close(squared, pairwise_distances(x, y, "euclidean").square())
    assert not torch.allclose(squared, 2 * pairwise_distances(2 * x, y, "squared_euclidean"))


def test_zero_rows_have_cosine_0_and_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    found = row_distances(x, torch.eye(3)[:2], "cosine")
    found.sum().backward()
    assert found.tolist() == [1.0, 1.0]
    assert float(x.grad.abs().max()) <= 1.0
    assert float(unit_rows(torch.zeros(1, 3)).abs().max()) == 0.0


@pytest.mark.parametrize("distance", DISTANCES)
def test_nan_stays_visible(distance: str) -> None:
    x = rows(3, 0)
    x[1, 2] = math.nan
    assert row_distances(x, rows(3, 1), distance).isnan().tolist() == [False, True, False]
    for dtype in (torch.float32, torch.float64):
        found = pairwise_distances(x.to(dtype), rows(2, 1).to(dtype), distance).isnan()
        assert found.tolist() == [[False] * 2, [True] * 2, [False] * 2]


@pytest.mark.parametrize("distance", DISTANCES)
def test_autocast_changes_nothing(distance: str) -> None:
    def outcome() -> list[Tensor]:
        x, y = rows(4, 0).float().requires_grad_(), rows(6, 1).float().requires_grad_()
        found = pairwise_distances(x, y, distance)
        if distance == "cosine":  # its backward is torch's own, which autocast reaches where it is called inside
            return [found, row_distances(x, y[:4], distance)]
        found.square().sum().backward()
        return [found, row_distances(x, y[:4], distance), x.grad, y.grad]

    outside = outcome()
    with torch.autocast("cpu", torch.bfloat16):
        inside = outcome()
        assert (rows(2, 0).float() @ rows(2, 1).float().T).dtype == torch.bfloat16
    for one, other in zip(outside, inside):
        assert torch.equal(one, other)


def test_the_manhattan_backward_holds_one_block_of_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = torch.einsum
    monkeypatch.setitem(row_blocks.BLOCK_PAIRS, "cpu", 100)
    monkeypatch.setattr(torch, "einsum", lambda equation, *ts: sizes.append(ts[-1].numel()) or original(equation, *ts))
    x = rows(9, 0).requires_grad_()
    pairwise_distances(x, rows(10, 1), "manhattan").sum().backward()
    assert sizes == [100] * 8 + [50, 50]  # two rows of ten times five differences; two products a block


@pytest.mark.parametrize(
    ("x", "y", "distance", "error", "named"),
    [
        (torch.ones(2, 3), torch.ones(2, 3), "euclidian", ConfigError, "'euclidian'.*did you mean 'euclidean'"),
        (torch.ones(2, 3), torch.ones(2, 3), "l7", ConfigError, "'l7'; want one of cosine, euclidean"),
        (torch.ones(2), torch.ones(2), "cosine", ShapeError, "x"),
        (torch.ones(0, 3), torch.ones(0, 3), "cosine", ShapeError, "no rows"),
        (torch.ones(2, 3), torch.ones(2, 4), "cosine", ShapeError, r"\(2, 3\) and \(2, 4\)"),
    ],
)
def test_wrong_arguments_are_named(x: Tensor, y: Tensor, distance: str, error: type, named: str) -> None:
    for function in (row_distances, pairwise_distances):
        with pytest.raises(error, match=named):
            function(x, y, distance)
