"""Triplet loss of pairs against naive loops in float64, hand-made cases, its direction, and what it must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError, MmclError, ShapeError
from mmcl.losses.distances import DISTANCES, row_distances
from mmcl.losses.triplet import MINING, triplet

ROWS, DIM = 7, 5
GROUPS = torch.tensor([3, 1, 3, 0, 1, 3, 9])


def unit(seed: int, count: int = ROWS) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=draw, dtype=torch.float64), dim=1)


def distance_of(a: Tensor, b: Tensor, distance: str) -> Tensor:
    return row_distances(a[None], b[None], distance)[0]


def naive(
    anchor: Tensor, positive: Tensor, *, groups: list[int], margin: float, mining: str, distance: str = "euclidean"
) -> Tensor:
    """Mined pairs by loops, both ways."""
    directions = []
    for queries, candidates in ((anchor, positive), (positive, anchor)):
        hinges = []
        for i in range(len(queries)):
            own = distance_of(queries[i], candidates[i], distance)
            outside = [j for j in range(len(queries)) if groups[j] != groups[i]]
            others = [distance_of(queries[i], candidates[j], distance) for j in outside]
            if mining == "hardest":
                others = sorted(others, key=Tensor.item)[:1]
            elif mining == "semi_hard":
                farther = sorted((d for d in others if d > own), key=Tensor.item)
                others = farther[:1] or sorted(others, key=Tensor.item)[-1:]
            row = [torch.clamp(own - other + margin, min=0) for other in others]
            hinges += [h for h in row if h > 0] if mining == "all" else row
        directions.append(sum(hinges, 0 * queries.sum()) / max(1, len(hinges)))
    return sum(directions) / 2


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["pairs", "groups"])
@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("distance", DISTANCES)
def test_mined_pairs_equal_loops(
    groups: Tensor | None, mining: str, distance: str, blocks: str, assert_equal_to_naive: Callable[..., None]
) -> None:
    ids = list(range(ROWS)) if groups is None else groups.tolist()
    margin = 0.3

    def loss(a: Tensor, p: Tensor) -> Tensor:
        return triplet(a, p, group_ids=groups, margin=margin, mining=mining, distance=distance)

    def loops(a: Tensor, p: Tensor) -> Tensor:
        return naive(a, p, groups=ids, margin=margin, mining=mining, distance=distance)

    assert_equal_to_naive(loss, loops, unit(0), unit(1))


def test_explicit_triplets_equal_loops(assert_equal_to_naive: Callable[..., None]) -> None:
    def loops(a: Tensor, p: Tensor, n: Tensor) -> Tensor:
        gaps = [distance_of(a[i], p[i], "euclidean") - distance_of(a[i], n[i], "euclidean") for i in range(ROWS)]
        return sum(torch.clamp(gap + 0.2, min=0) for gap in gaps) / ROWS

    assert_equal_to_naive(triplet, loops, unit(0), unit(1), unit(2))
    torch.testing.assert_close(
        triplet(unit(0), unit(1), unit(2), margin=0.5),
        F.triplet_margin_loss(unit(0), unit(1), unit(2), margin=0.5, eps=0.0),
    )
    assert not torch.isclose(triplet(unit(0), unit(1), unit(2)), triplet(unit(0), unit(2), unit(1)))


def test_minings_groups_and_distances_differ() -> None:
    anchor, positive = unit(0), unit(2)
    values = [float(triplet(anchor, positive, mining=mining)) for mining in MINING]
    values += [float(triplet(anchor, positive, group_ids=GROUPS, mining=mining)) for mining in MINING]
    values += [float(triplet(anchor, positive, distance=name)) for name in DISTANCES if name != "euclidean"]
    assert len({round(value, 6) for value in values}) == len(values)


def test_mining_is_the_explicit_loss_of_what_it_picks() -> None:
    # Positives are 1 away; negatives 0.5, 1.2 and 3 away.
    anchor = torch.tensor([[0.0], [100.0], [200.0], [300.0]])
    positive = torch.tensor([[1.0], [0.5], [-1.2], [3.0]])
    only_first = torch.tensor([0, 1, 1, 1])
    picks = {"hardest": 0.5, "semi_hard": 1.2}
    for mining, picked in picks.items():
        forth = triplet(anchor[:1], positive[:1], torch.tensor([[picked]]), margin=0.4)
        assert float(forth) == pytest.approx(max(0.0, 1 - picked + 0.4))
        found = naive(anchor, positive, groups=only_first.tolist(), margin=0.4, mining=mining)
        torch.testing.assert_close(
            triplet(anchor, positive, group_ids=only_first, margin=0.4, mining=mining), found, check_dtype=False
        )
    every = triplet(anchor[:1].repeat(3, 1), positive[:1].repeat(3, 1), positive[1:], margin=0.4)
    assert float(every) == pytest.approx((0.9 + 0.2 + 0.0) / 3)


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("distance", DISTANCES)
def test_aligned_pairs_are_better_and_a_step_brings_pairs_together(mining: str, distance: str) -> None:
    anchor, positive = unit(0), unit(1)
    options = {"mining": mining, "distance": distance, "margin": 0.5}
    assert triplet(anchor, anchor, **options) < triplet(anchor, anchor.roll(1, 0), **options)
    assert triplet(anchor, anchor, unit(2), distance=distance) < triplet(anchor, unit(2), anchor, distance=distance)
    raw = positive.clone().requires_grad_()

    def lead(moved: Tensor) -> Tensor:
        scores = anchor @ F.normalize(moved, dim=1).T
        return scores.diagonal().mean() - scores.mean()

    triplet(anchor, F.normalize(raw, dim=1), **options).backward()
    assert lead(raw - 0.1 * raw.grad) > lead(raw) > lead(raw + 0.1 * raw.grad)


@pytest.mark.parametrize("mining", MINING)
def test_collapsed_embeddings_cost_the_margin_and_more_than_that_is_possible(mining: str) -> None:
    x = F.normalize(torch.ones(6, DIM), dim=1)
    assert float(triplet(x, x, mining=mining, margin=0.3)) == pytest.approx(0.3, abs=1e-6)
    assert float(triplet(torch.eye(6), -torch.eye(6), mining=mining, margin=0.3)) > 0.5
    assert float(triplet(torch.eye(6), torch.eye(6), mining=mining, margin=0.3)) == 0.0


@pytest.mark.parametrize("mining", MINING)
def test_a_batch_without_negatives_costs_nothing(mining: str, blocks: str) -> None:
    for count, groups in ((1, None), (ROWS, torch.zeros(ROWS, dtype=torch.int64))):
        anchor, positive = unit(0, count).requires_grad_(), unit(1, count).requires_grad_()
        loss = triplet(anchor, positive, group_ids=groups, mining=mining)
        loss.backward()
        assert float(loss.detach()) == 0.0
        assert float(anchor.grad.abs().max()) == float(positive.grad.abs().max()) == 0.0


@pytest.mark.parametrize("mining", MINING)
def test_order_of_rows_and_names_of_groups_do_not_matter(mining: str) -> None:
    anchor, positive, order = unit(0), unit(1), torch.tensor([4, 0, 6, 2, 5, 1, 3])
    loss = triplet(anchor, positive, group_ids=GROUPS, mining=mining)
    torch.testing.assert_close(loss, triplet(anchor[order], positive[order], group_ids=GROUPS[order], mining=mining))
    torch.testing.assert_close(loss, triplet(positive, anchor, group_ids=GROUPS * 7 - 100, mining=mining))
    assert not torch.isclose(loss, triplet(anchor, positive[order], group_ids=GROUPS, mining=mining))


def test_with_unit_rows_squared_euclidean_is_twice_cosine() -> None:
    for mining in MINING:
        squared = triplet(unit(0), unit(1), mining=mining, distance="squared_euclidean", margin=0.4)
        torch.testing.assert_close(squared, 2 * triplet(unit(0), unit(1), mining=mining, distance="cosine", margin=0.2))
        assert not torch.isclose(squared, 2 * triplet(unit(0), unit(1), mining=mining, distance="cosine", margin=0.4))


def test_the_largest_hinge_is_that_of_vse() -> None:
    image, text = unit(0), unit(1)
    scores = image @ text.T
    wrong = scores.masked_fill(torch.eye(ROWS, dtype=torch.bool), -torch.inf)
    own = scores.diagonal()
    expected = (0.2 + wrong.max(1).values - own).relu().mean() / 2 + (0.2 + wrong.max(0).values - own).relu().mean() / 2
    torch.testing.assert_close(triplet(image, text, mining="hardest", distance="cosine"), expected)
    assert not torch.isclose(triplet(image, text, mining="all", distance="cosine"), expected)


@pytest.mark.parametrize("mining", MINING)
def test_pairs_that_coincide_have_a_finite_gradient(mining: str) -> None:
    anchor = unit(0).float().requires_grad_()
    positive = anchor.detach().clone().requires_grad_()
    triplet(anchor, positive, mining=mining, margin=3.0).backward()
    assert torch.isfinite(anchor.grad).all()
    assert float(anchor.grad.abs().max()) > 1e-3


@pytest.mark.parametrize("mining", MINING)
@pytest.mark.parametrize("side", [0, 1])
def test_nan_stays_visible(mining: str, side: int) -> None:
    sides = [unit(0), unit(1)]
    sides[side][2, 1] = math.nan
    assert math.isnan(float(triplet(*sides, mining=mining)))
    assert math.isnan(float(triplet(*sides, unit(2))))


@pytest.mark.parametrize("mining", MINING)
def test_autocast_around_it_changes_nothing(mining: str) -> None:
    anchor, positive = unit(0).float(), unit(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = triplet(anchor, positive, mining=mining, distance="cosine")
    assert float(inside) == float(triplet(anchor, positive, mining=mining, distance="cosine"))


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"anchor": torch.ones(3, DIM)}, ShapeError, "anchor and positive"),
        ({"anchor": torch.ones(ROWS)}, ShapeError, "anchor and positive"),
        ({"anchor": torch.ones(0, DIM), "positive": torch.ones(0, DIM)}, ShapeError, "no rows"),
        ({"negative": torch.ones(ROWS, DIM + 1)}, ShapeError, "anchor and negative"),
        ({"group_ids": torch.zeros(3, dtype=torch.int64)}, ShapeError, "group_ids need shape"),
        ({"margin": -0.1}, ShapeError, "margin is -0.1"),
        ({"margin": math.nan}, ShapeError, "margin is nan"),
        ({"mining": "semihard"}, ConfigError, "mining is 'semihard'.*did you mean 'semi_hard'"),
        ({"distance": "cosin"}, ConfigError, "distance is 'cosin'.*did you mean 'cosine'"),
        ({"negative": unit(2), "mining": "hardest"}, ConfigError, "nothing is mined"),
        ({"negative": unit(2), "group_ids": GROUPS}, ConfigError, "nothing is mined"),
    ],
)
def test_wrong_arguments_are_named(change: dict, error: type[MmclError], named: str) -> None:
    given = {"anchor": unit(0), "positive": unit(1)}
    assert torch.isfinite(triplet(**given))
    with pytest.raises(error, match=named):
        triplet(**{**given, **change})
