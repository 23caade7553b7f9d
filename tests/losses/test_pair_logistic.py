"""Logistic losses of pairs against loops in float64, the losses they are a part of, and what they must refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ShapeError
from mmcl.losses.pair_logistic import pairwise_logistic, ranking_logistic

ROWS, DIM = 8, 5
TARGETS = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0, 1.0, 1.0, 0.1], dtype=torch.float64)
SCALE = torch.tensor(4.0, dtype=torch.float64)  # representable in bf16


def unit(seed: int, count: int = ROWS) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=draw, dtype=torch.float64), dim=1)


def scores(x: Tensor, y: Tensor) -> list[Tensor]:
    return [(a * b).sum() / (a.norm() * b.norm()) for a, b in zip(x, y)]


@pytest.mark.parametrize("targets", [None, TARGETS, TARGETS.bool()], ids=["none", "ints", "bools"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_pair_equals_loops(
    targets: Tensor | None, weighted: bool, assert_equal_to_naive: Callable[..., None]
) -> None:
    def loss(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return pairwise_logistic(x, y, scale, targets, logit_bias=bias, weights=WEIGHTS if weighted else None)

    def loops(x: Tensor, y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        shares = WEIGHTS if weighted else torch.ones(ROWS, dtype=torch.float64)
        signs = [1.0] * ROWS if targets is None else [2.0 * bool(target) - 1 for target in targets]
        logits = [scale * score + bias for score in scores(x, y)]
        terms = [torch.log(1 + torch.exp(-sign * logit)) for sign, logit in zip(signs, logits)]
        return sum(share * term for share, term in zip(shares, terms)) / sum(shares)

    assert_equal_to_naive(loss, loops, unit(0), unit(1), SCALE, torch.tensor(-1.5, dtype=torch.float64))


def test_ranking_equals_loops(blocks: str, assert_equal_to_naive: Callable[..., None]) -> None:
    def loops(x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        of = scores(x, y)
        comparisons = [(k, n) for k in range(ROWS) for n in range(ROWS) if TARGETS[k] == 1 and TARGETS[n] == 0]
        return sum(torch.log(1 + torch.exp(scale * (of[n] - of[k]))) for k, n in comparisons) / len(comparisons)

    assert_equal_to_naive(lambda x, y, s: ranking_logistic(x, y, s, TARGETS), loops, unit(0), unit(1), SCALE)


def test_over_all_pairs_of_a_batch_it_is_siglip() -> None:
    image, text = unit(0), unit(1)
    signs = 2 * torch.eye(ROWS, dtype=torch.float64) - 1
    siglip = -F.logsigmoid(signs * (10 * image @ text.T - 10)).sum() / ROWS
    i, j = (index.flatten() for index in torch.meshgrid(torch.arange(ROWS), torch.arange(ROWS), indexing="ij"))
    found = pairwise_logistic(image[i], text[j], 10.0, i == j, logit_bias=-10.0)
    torch.testing.assert_close(found * ROWS, siglip)
    assert not torch.isclose(pairwise_logistic(image[i], text[j], 10.0, i == j) * ROWS, siglip)


def test_ranking_becomes_the_mean_of_misordered_gaps_and_sees_no_common_shift() -> None:
    x, y = unit(0), unit(1)
    of = torch.stack(scores(x, y))
    gaps = (of[TARGETS == 0] - of[TARGETS == 1][:, None]).relu().mean()
    torch.testing.assert_close(ranking_logistic(x, y, 1e5, TARGETS) / 1e5, gaps, atol=1e-5, rtol=0)
    assert float(gaps) > 0.1
    # Where all score alike, however high, every comparison is a toss.
    same = ranking_logistic(x, x, 10.0, TARGETS)
    assert float(same) == pytest.approx(math.log(2), abs=1e-9)


@pytest.mark.parametrize("loss", [pairwise_logistic, ranking_logistic])
def test_a_step_raises_similar_scores_and_lowers_the_others(loss: Callable[..., Tensor]) -> None:
    x, y = unit(0), unit(1)
    targets = torch.arange(ROWS) < ROWS // 2
    mixed = torch.where(targets[:, None], x, -x)
    assert loss(x, mixed, 10.0, targets) < loss(x, mixed, 10.0, ~targets)
    raw = y.clone().requires_grad_()
    loss(x, raw, 10.0, TARGETS).backward()
    before, after = ((x * F.normalize(rows, dim=1)).sum(1) for rows in (y, raw.detach() - 0.05 * raw.grad))
    similar = TARGETS.bool()
    assert bool((after > before)[similar].all())
    assert bool((after < before)[~similar].all())


@pytest.mark.parametrize("loss", [pairwise_logistic, ranking_logistic])
def test_large_scales_neither_overflow_nor_saturate(loss: Callable[..., Tensor]) -> None:
    x = torch.eye(4).requires_grad_()
    targets = torch.tensor([1, 1, 0, 0])
    worst = loss(x, torch.where(targets[:, None] == 1, -torch.eye(4), torch.eye(4)), 1000.0, targets)
    worst.backward()
    assert float(worst.detach()) == pytest.approx(1000.0 if loss is pairwise_logistic else 2000.0)
    assert torch.isfinite(x.grad).all()
    assert math.isinf(torch.exp(torch.tensor(1000.0)).item())


@pytest.mark.parametrize("targets", [torch.zeros(ROWS), torch.ones(ROWS)], ids=["no positive", "all positive"])
def test_with_nothing_to_rank_it_is_0(targets: Tensor, blocks: str) -> None:
    x = unit(0).requires_grad_()
    loss = ranking_logistic(x, unit(1), 10.0, targets)
    loss.backward()
    assert float(loss.detach()) == float(x.grad.abs().max()) == 0.0
    assert float(pairwise_logistic(unit(0), unit(1), 10.0, targets)) > 0.1


@pytest.mark.parametrize("loss", [pairwise_logistic, ranking_logistic])
def test_order_of_pairs_does_not_matter_and_pairing_does(loss: Callable[..., Tensor]) -> None:
    x, y, order = unit(0), unit(1), torch.tensor([4, 0, 6, 2, 5, 1, 3, 7])
    found = loss(x, y, 10.0, TARGETS)
    torch.testing.assert_close(found, loss(x[order], y[order], 10.0, TARGETS[order]))
    torch.testing.assert_close(found, loss(y, 3 * x, 10.0, TARGETS))
    assert not torch.isclose(found, loss(x, y[order], 10.0, TARGETS))


@pytest.mark.parametrize("loss", [pairwise_logistic, ranking_logistic])
def test_autocast_around_it_changes_nothing(loss: Callable[..., Tensor]) -> None:
    x, y = unit(0).float(), unit(1).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(x, y, 10.0, TARGETS)
    assert float(inside) == float(loss(x, y, 10.0, TARGETS))


@pytest.mark.parametrize("loss", [pairwise_logistic, ranking_logistic])
def test_nan_stays_visible(loss: Callable[..., Tensor]) -> None:
    x = unit(0)
    x[2, 1] = math.nan
    assert math.isnan(float(loss(x, unit(1), 10.0, TARGETS)))


@pytest.mark.parametrize("loss", [pairwise_logistic, ranking_logistic])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"x": torch.ones(3, DIM)}, "x and y need equal shapes"),
        ({"x": torch.ones(0, DIM), "y": torch.ones(0, DIM)}, "no rows"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0"),
        ({"logit_scale": torch.ones(2)}, "logit_scale is one number"),
        ({"targets": torch.ones(3)}, "targets need shape"),
        ({"targets": 2 * TARGETS}, "targets hold 2"),
    ],
)
def test_wrong_arguments_are_named(loss: Callable[..., Tensor], change: dict, named: str) -> None:
    given = {"x": unit(0), "y": unit(1), "logit_scale": 10.0, "targets": TARGETS}
    assert torch.isfinite(loss(**given))
    with pytest.raises(ShapeError, match=named):
        loss(**{**given, **change})
    with pytest.raises(ShapeError, match="logit_bias is one number"):
        pairwise_logistic(**given, logit_bias=torch.ones(2))
