"""Losses of similar and dissimilar pairs against loops in float64 and torch's own, and what they must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError, ShapeError
from mmcl.losses.distances import DISTANCES, row_distances
from mmcl.losses.pairs import cosine, euclidean, manhattan, margin_contrastive

ROWS, DIM = 8, 5
TARGETS = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0, 1.0, 1.0, 0.1], dtype=torch.float64)
LOSSES = {loss.__name__: loss for loss in (margin_contrastive, euclidean, manhattan, cosine)}


def unit(seed: int, count: int = ROWS) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=draw, dtype=torch.float64), dim=1)


def of_pair(name: str, x: Tensor, y: Tensor, similar: bool, margin: float, distance: str) -> Tensor:
    if name == "cosine":
        score = (x * y).sum() / (x.norm() * y.norm())
        return 1 - score if similar else torch.clamp(score - margin, min=0)
    distance = {"euclidean": "euclidean", "manhattan": "manhattan"}.get(name, distance)
    apart = row_distances(x[None], y[None], distance)[0]
    hinge = apart if similar else torch.clamp(margin - apart, min=0)
    return hinge**2 / 2 if name == "margin_contrastive" else hinge


CASES = [(name, "") for name in ("euclidean", "manhattan", "cosine")]
CASES += [("margin_contrastive", distance) for distance in DISTANCES]


@pytest.mark.parametrize(("name", "distance"), CASES)
@pytest.mark.parametrize("targets", [None, TARGETS, TARGETS.bool()], ids=["none", "ints", "bools"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equal_loops(
    name: str, distance: str, targets: Tensor | None, weighted: bool, assert_equal_to_naive: Callable[..., None]
) -> None:
    margin = 0.1 if name == "cosine" else 1.3
    options = {"distance": distance} if distance else {}

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return LOSSES[name](x, y, targets, margin=margin, weights=WEIGHTS if weighted else None, **options)

    def loops(x: Tensor, y: Tensor) -> Tensor:
        shares = WEIGHTS if weighted else torch.ones(ROWS, dtype=torch.float64)
        similar = [True] * ROWS if targets is None else [bool(target) for target in targets]
        terms = [of_pair(name, x[i], y[i], similar[i], margin, distance) for i in range(ROWS)]
        return sum(share * term for share, term in zip(shares, terms)) / sum(shares)

    assert_equal_to_naive(loss, loops, unit(0), unit(1))


def test_cosine_is_that_of_torch() -> None:
    for margin in (0.0, 0.4):
        expected = F.cosine_embedding_loss(unit(0), unit(1), 2 * TARGETS - 1, margin=margin)
        torch.testing.assert_close(cosine(unit(0), unit(1), TARGETS, margin=margin), expected)
        assert not torch.isclose(cosine(unit(0), unit(1), 1 - TARGETS, margin=margin), expected)


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
def test_margin_contrastive_is_half_the_square_of_each_pairs_distance_loss(distance: str) -> None:
    x, y = unit(0), unit(1)
    each = torch.stack([LOSSES[distance](x[i : i + 1], y[i : i + 1], TARGETS[i : i + 1]) for i in range(ROWS)])
    expected = each.square().mean() / 2
    torch.testing.assert_close(margin_contrastive(x, y, TARGETS, distance=distance), expected)
    assert not torch.isclose(expected, LOSSES[distance](x, y, TARGETS))


def test_of_similar_unit_rows_cosine_is_margin_contrastive() -> None:
    torch.testing.assert_close(cosine(unit(0), unit(1)), margin_contrastive(unit(0), unit(1)))
    assert not torch.isclose(cosine(unit(0), unit(1), TARGETS), margin_contrastive(unit(0), unit(1), TARGETS))


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_draws_similar_pairs_together_and_others_apart(name: str) -> None:
    x, y = unit(0), unit(1)
    assert LOSSES[name](x, x) < LOSSES[name](x, y)
    assert LOSSES[name](x, x, torch.zeros(ROWS)) > LOSSES[name](x, -x, torch.zeros(ROWS))
    raw = y.clone().requires_grad_()
    margin = {"margin": 0.0 if name == "cosine" else 5.0}
    LOSSES[name](x, raw, TARGETS, **margin).backward()
    before, after = ((x * F.normalize(rows, dim=1)).sum(1) for rows in (y, raw.detach() - 0.1 * raw.grad))
    similar = TARGETS.bool()
    assert bool((after > before)[similar].all())
    moved = raw.grad.abs().sum(1) > 0  # a cosine below the margin is left where it is
    assert bool((after < before)[~similar & moved].all())
    assert int((~similar & moved).sum()) >= 2


@pytest.mark.parametrize("name", LOSSES)
def test_rows_beyond_the_margin_are_left_alone(name: str) -> None:
    x = torch.eye(3).requires_grad_()
    margin = 0.0 if name == "cosine" else 1.0
    loss = LOSSES[name](x, -torch.eye(3), torch.zeros(3), margin=margin)
    loss.backward()
    assert float(loss.detach()) == float(x.grad.abs().max()) == 0.0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("target", [0, 1])
def test_coinciding_pairs_have_a_finite_gradient(name: str, target: int) -> None:
    x = unit(0).float().requires_grad_()
    LOSSES[name](x, x.detach().clone(), torch.full((ROWS,), target)).backward()
    assert float(x.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_order_of_pairs_does_not_matter_and_pairing_does(name: str) -> None:
    x, y, order = unit(0), unit(1), torch.tensor([4, 0, 6, 2, 5, 1, 3, 7])
    loss = LOSSES[name](x, y, TARGETS, weights=WEIGHTS)
    torch.testing.assert_close(loss, LOSSES[name](x[order], y[order], TARGETS[order], weights=WEIGHTS[order]))
    torch.testing.assert_close(loss, LOSSES[name](y, x, TARGETS, weights=WEIGHTS))
    assert not torch.isclose(loss, LOSSES[name](x, y[order], TARGETS, weights=WEIGHTS))


@pytest.mark.parametrize("name", LOSSES)
def test_weights_count_pairs_and_zero_leaves_them_out(name: str) -> None:
    x, y = unit(0), unit(1)
    repeated = torch.tensor([0, 0, 0, 2, 5])
    weights = torch.tensor([3.0, 0, 1, 0, 0, 1, 0, 0])
    expected = LOSSES[name](x[repeated], y[repeated], TARGETS[repeated])
    torch.testing.assert_close(LOSSES[name](x, y, TARGETS, weights=weights), expected)
    assert not torch.isclose(LOSSES[name](x, y, TARGETS), expected)
    leaf = x.clone().requires_grad_()
    nothing = LOSSES[name](leaf, y, TARGETS, weights=torch.zeros(ROWS))
    nothing.backward()
    assert float(nothing.detach()) == float(leaf.grad.abs().max()) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_nan_stays_visible_and_one_pair_is_enough(name: str) -> None:
    x = unit(0, 1)
    assert float(LOSSES[name](x, x)) == pytest.approx(0.0, abs=1e-12)
    x[0, 0] = math.nan
    for target in (0, 1):
        assert math.isnan(float(LOSSES[name](x, unit(1, 1), torch.tensor([target]))))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.ones(3, DIM)}, "x and y need equal shapes"),
        ({"x": torch.ones(0, DIM), "y": torch.ones(0, DIM)}, "no rows"),
        ({"targets": torch.ones(3)}, "targets need shape"),
        ({"targets": 2 * TARGETS - 1}, "targets hold -1; want 0, 1"),
        ({"targets": torch.full((ROWS,), 0.5)}, "targets hold 0.5"),
        ({"weights": torch.ones(ROWS, 1)}, "weights need shape"),
        ({"weights": -torch.ones(ROWS)}, "weights hold -1.0"),
        ({"weights": torch.full((ROWS,), math.nan)}, "weights hold nan"),
        ({"margin": -2.0}, "margin is -2.0"),
        ({"margin": math.inf}, "margin is inf"),
        ({"margin": math.nan}, "margin is nan"),
    ],
)
def test_wrong_arguments_are_named(name: str, change: dict, named: str) -> None:
    given = {"x": unit(0), "y": unit(1), "targets": TARGETS}
    assert torch.isfinite(LOSSES[name](**given))
    with pytest.raises(ShapeError, match=named):
        LOSSES[name](**{**given, **change})


def test_margins_beyond_what_a_loss_can_mean_are_refused() -> None:
    with pytest.raises(ShapeError, match="margin is 1.5"):
        cosine(unit(0), unit(1), margin=1.5)
    assert float(cosine(unit(0), unit(1), TARGETS, margin=-1.0)) > float(cosine(unit(0), unit(1), TARGETS, margin=1.0))
    for loss in (margin_contrastive, euclidean, manhattan):
        with pytest.raises(ShapeError, match="margin is 0.0"):
            loss(unit(0), unit(1), margin=0.0)
    with pytest.raises(ConfigError, match="distance is 'euclid'.*did you mean 'euclidean'"):
        margin_contrastive(unit(0), unit(1), distance="euclid")
