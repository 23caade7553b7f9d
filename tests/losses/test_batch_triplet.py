"""Triplets mined by label against loops over all of them in float64, hand-made cases, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError, MmclError, ShapeError
from mmcl.losses.batch_triplet import batch_triplet
from mmcl.losses.distances import DISTANCES, row_distances
from mmcl.losses.triplet import MINING, triplet

ROWS, DIM = 9, 5
GROUPS = torch.tensor([3, 1, 3, 0, 1, 3, 9, 1, 0])  # 9 has no positive


def unit(seed: int, count: int = ROWS) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=draw, dtype=torch.float64), dim=1)


def naive(x: Tensor, groups: list[int], *, margin: float, mining: str, distance: str) -> Tensor:
    """All triplets by loops."""
    every = range(len(x))
    between = {(i, j): row_distances(x[i : i + 1], x[j : j + 1], distance)[0] for i in every for j in every}
    hinges = []
    for a in range(len(x)):
        positives = [between[a, p] for p in range(len(x)) if p != a and groups[p] == groups[a]]
        negatives = [between[a, n] for n in range(len(x)) if groups[n] != groups[a]]
        if not positives or not negatives:
            continue
        if mining == "hardest":
            gap = max(positives, key=Tensor.item) - min(negatives, key=Tensor.item)
            hinges.append(torch.clamp(gap + margin, min=0))
        for p in positives:
            if mining == "all":
                hinges += [p - n + margin for n in negatives if p - n + margin > 0]
            if mining == "semi_hard":
                farther = [n for n in negatives if n > p]
                chosen = min(farther, key=Tensor.item) if farther else max(negatives, key=Tensor.item)
                hinges.append(torch.clamp(p - chosen + margin, min=0))
    return sum(hinges, 0 * x.sum()) / max(1, len(hinges))


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("margin", [0.2, 5.0])
def test_equals_loops(
    mining: str, distance: str, margin: float, blocks: str, assert_equal_to_naive: Callable[..., None]
) -> None:
    def loss(x: Tensor) -> Tensor:
        return batch_triplet(x, GROUPS, margin=margin, mining=mining, distance=distance)

    def loops(x: Tensor) -> Tensor:
        return naive(x, GROUPS.tolist(), margin=margin, mining=mining, distance=distance)

    assert_equal_to_naive(loss, loops, unit(0))


def test_minings_and_distances_differ() -> None:
    values = [float(batch_triplet(unit(0), GROUPS, mining=mining)) for mining in MINING]
    values += [float(batch_triplet(unit(0), GROUPS, distance=name)) for name in DISTANCES if name != "euclidean"]
    assert len({round(value, 6) for value in values}) == len(values)


def test_nearly_solved_batches_keep_their_digits() -> None:
    # Sums of many distances whose differences are small: the plain difference of sums loses what is left of the loss.
    count = 64
    x = torch.zeros(2 * count, 2, dtype=torch.float64)
    x[:count, 0] = 1e-3 * torch.rand(count, generator=torch.Generator().manual_seed(0))
    x[count:, 0] = 100 + 1e-3 * torch.rand(count, generator=torch.Generator().manual_seed(1))
    groups = torch.arange(2 * count) // count
    margin = 99.9995
    expected = batch_triplet(x, groups, margin=margin, mining="all")
    found = batch_triplet(x.float(), groups, margin=float(margin), mining="all")
    assert 0 < float(expected) < 1e-3
    assert float(found) == pytest.approx(float(expected), abs=2e-5)  # float32 at 100 has steps of 8e-6


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("distance", DISTANCES)
def test_tight_groups_are_better_and_a_step_tightens_them(mining: str, distance: str) -> None:
    tight = F.normalize(torch.eye(16)[:, :DIM][GROUPS % DIM] + 0.05 * unit(0), dim=1)
    options = {"mining": mining, "distance": distance, "margin": 0.5}
    assert batch_triplet(tight, GROUPS % DIM, **options) < batch_triplet(tight, (GROUPS % DIM).roll(1), **options)
    raw = unit(1).requires_grad_()
    same = GROUPS[:, None] == GROUPS

    def lead(moved: Tensor) -> float:
        scores = F.normalize(moved.detach(), dim=1) @ F.normalize(moved.detach(), dim=1).T
        return float(scores[same].mean() - scores[~same].mean())

    batch_triplet(F.normalize(raw, dim=1), GROUPS, **options).backward()
    assert lead(raw - 0.05 * raw.grad) > lead(raw) > lead(raw + 0.05 * raw.grad)


@pytest.mark.parametrize("mining", MINING)
def test_collapsed_embeddings_cost_the_margin(mining: str) -> None:
    x = F.normalize(torch.ones(ROWS, DIM), dim=1)
    assert float(batch_triplet(x, GROUPS, mining=mining, margin=0.3)) == pytest.approx(0.3, abs=1e-6)
    solved = torch.eye(10)[GROUPS]
    assert float(batch_triplet(solved, GROUPS, mining=mining, margin=0.3)) == 0.0


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize(
    "groups",
    [torch.zeros(ROWS, dtype=torch.int64), torch.arange(ROWS), torch.zeros(1, dtype=torch.int64)],
    ids=["no negative", "no positive", "one row"],
)
def test_without_triplets_it_is_0_with_zero_gradient(mining: str, groups: Tensor, blocks: str) -> None:
    x = unit(0, len(groups)).requires_grad_()
    loss = batch_triplet(x, groups, mining=mining)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(x.grad.abs().max()) == 0.0


@pytest.mark.parametrize("mining", MINING)
def test_order_of_rows_and_names_of_groups_do_not_matter(mining: str) -> None:
    x, order = unit(0), torch.tensor([4, 0, 8, 6, 2, 5, 7, 1, 3])
    loss = batch_triplet(x, GROUPS, mining=mining)
    torch.testing.assert_close(loss, batch_triplet(x[order], GROUPS[order] * 7 - 100, mining=mining))
    assert not torch.isclose(loss, batch_triplet(x[order], GROUPS, mining=mining))


def test_two_views_as_one_batch_are_triplets_of_pairs_and_more() -> None:
    # With margins that no distance of unit rows reaches, all triplets are active and both losses are plain means.
    x, y, margin = unit(0, 4), unit(1, 4), 10.0
    ids = torch.arange(4)
    joint = batch_triplet(torch.cat((x, y)), ids.repeat(2), margin=margin, mining="all")
    across = triplet(x, y, margin=margin)
    within = [
        torch.stack([row_distances(a[i : i + 1], b[i : i + 1]) - row_distances(a[i : i + 1], a[j : j + 1]) + margin
                     for i in range(4) for j in range(4) if i != j]).mean()
        for a, b in ((x, y), (y, x))
    ]  # fmt: skip
    torch.testing.assert_close(joint, (across + sum(within) / 2) / 2)
    assert not torch.isclose(joint, across)


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("row", [2, 6])
def test_nan_stays_visible(mining: str, row: int, blocks: str) -> None:
    x = unit(0)
    x[row, 1] = math.nan
    assert math.isnan(float(batch_triplet(x, GROUPS, mining=mining)))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"embeddings": torch.ones(ROWS)}, ShapeError, "embeddings needs shape"),
        ({"embeddings": torch.ones(0, DIM)}, ShapeError, "no rows"),
        ({"group_ids": None}, ShapeError, "group_ids is None"),
        ({"group_ids": torch.zeros(3, dtype=torch.int64)}, ShapeError, "group_ids need shape"),
        ({"margin": -1.0}, ShapeError, "margin is -1.0"),
        ({"mining": "hard"}, ConfigError, "mining is 'hard'.*did you mean 'hardest'"),
        ({"distance": "manhatten"}, ConfigError, "did you mean 'manhattan'"),
    ],
)
def test_wrong_arguments_are_named(change: dict, error: type[MmclError], named: str) -> None:
    given = {"embeddings": unit(0), "group_ids": GROUPS}
    assert torch.isfinite(batch_triplet(**given))
    with pytest.raises(error, match=named):
        batch_triplet(**{**given, **change})
