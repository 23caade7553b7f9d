"""All pairs judged at once: how many are left out, which, and what stands against them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.noise.beforehand import FIT_TO_JUDGE, judged_beforehand
from mmcl.noise.claims import Claims


def two_rows_a_claim(right: int, wrong: int, *, soft: bool = False) -> tuple[float, Tensor, Tensor]:
    """The wrong claims last; losses of pairs made wrong like theirs."""
    draw = torch.Generator().manual_seed(0)
    losses = torch.randn(right + wrong, generator=draw).repeat_interleave(2)
    losses[2 * right :] += 6
    made_wrong = (torch.randn(right + wrong, generator=draw) + 6).repeat_interleave(2)
    losses[0], made_wrong[0] = torch.nan, torch.nan  # an image that cannot be read
    rows = torch.arange(right + wrong).repeat_interleave(2)
    return judged_beforehand(Claims(rows, rows), losses, made_wrong, soft=soft)


def test_the_wrong_share_is_left_out() -> None:
    fitness, _, weights = two_rows_a_claim(1400, 600)
    assert fitness > 0.8
    left_out = weights == 0
    # The share is twice that of the claims above a median: its standard error is 2 sqrt(0.15 * 0.85 / 2000) = 0.016.
    assert float(left_out.float().mean()) == pytest.approx(0.3, abs=3 * 0.016)
    assert float(left_out[2800:].float().mean()) > 0.9
    assert float(weights[0]) == 1.0  # judged with the other row of its claim


def test_softly_pairs_weigh_as_likely_as_they_are_right() -> None:
    _, clean, weights = two_rows_a_claim(1400, 600, soft=True)
    torch.testing.assert_close(weights, clean)
    assert float(clean[:2800].mean()) > 0.95
    assert float(clean[2800:].mean()) < 0.05


def test_data_without_wrong_pairs_lose_next_to_none() -> None:
    _, _, weights = two_rows_a_claim(2000, 0)
    assert float((weights == 0).float().mean()) < 0.02
    _, _, control = two_rows_a_claim(1400, 600)
    assert float((control == 0).float().mean()) > 0.2


def test_judges_that_can_tell_nothing_change_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    fitness, clean, weights = judged_beforehand(
        Claims.alone(200), torch.randn(200, generator=draw), torch.randn(200, generator=draw), soft=False
    )
    assert fitness < FIT_TO_JUDGE
    assert weights.tolist() == clean.tolist() == [1.0] * 200
    with pytest.raises(ShapeError, match=r"losses need shape \(200,\), got \(200,\) and \(3,\)"):
        judged_beforehand(Claims.alone(200), torch.zeros(200), torch.zeros(3), soft=False)


def contradicted(*, grouped: bool = True) -> tuple[Claims, Tensor, Tensor, Tensor]:
    """Groups of two images: 600 with one caption; 400 of whose two captions one is wrong. Losses overlap.

    Not grouped, all rows stand alone, and are one kind.
    """
    draw, rows = torch.Generator().manual_seed(0), torch.arange(2000)
    captions = torch.cat([torch.arange(600).repeat_interleave(2), 600 + torch.arange(800)])
    wrong = (rows >= 1200) & (rows % 2 == 0)
    losses = torch.randn(2000, generator=draw) + 2.0 * wrong
    losses[:1200] = losses[:1200:2].repeat_interleave(2)  # two images of one claim have no better mean here
    made_wrong = torch.randn(2000, generator=draw) + 2.0
    return Claims(rows // 2, captions) if grouped else Claims.alone(2000), losses, made_wrong, wrong


def test_what_a_whole_group_says_is_trusted_before_what_is_contradicted() -> None:
    errors = {}
    for grouped in (True, False):
        claims, losses, made_wrong, wrong = contradicted(grouped=grouped)
        _, _, weights = judged_beforehand(claims, losses, made_wrong, soft=False)
        errors[grouped] = int(((weights == 0) != wrong).sum())
        if grouped:
            assert float((weights[:1200] == 0).float().mean()) < 0.06
            assert float((weights[1200:] == 0).float().mean()) == pytest.approx(0.5, abs=0.12)
    # The best threshold between the two normal distributions of the contradicted errs in 15.9 % of 800; of the 1,200
    # right ones 2.3 % lie above the median of wrong ones, and twice as many are left out: 182 +- 13.
    assert errors[True] < 182 + 3 * 13
    assert errors[False] > 1.2 * errors[True]


def test_the_worse_of_two_rivals_is_left_out() -> None:
    claims, losses, made_wrong, wrong = contradicted()
    _, clean, weights = judged_beforehand(claims, losses, made_wrong, soft=False)
    left_out, own, is_wrong = weights[1200:] == 0, losses[1200:], wrong[1200:]
    by_loss = torch.zeros(800, dtype=torch.bool)
    by_loss[own.topk(int(left_out.sum())).indices] = True  # as many, by their losses alone
    assert int((left_out != is_wrong).sum()) < 0.85 * int((by_loss != is_wrong).sum())
    # The chances are those of the losses, in another order.
    _, alone, _ = judged_beforehand(Claims(claims.groups, torch.zeros(2000).long()), losses, made_wrong, soft=False)
    assert not torch.equal(clean, alone)
    assert float(clean[1200:].mean()) == pytest.approx(0.5, abs=0.05)


def test_a_kind_of_few_claims_is_judged_with_the_rest() -> None:
    alone, losses, made_wrong, _ = contradicted(grouped=False)
    groups = torch.arange(2000)
    losses[:60] = torch.linspace(2.3, 3, 60)  # rivals that fit no better than what is made wrong change nothing
    groups[1:60:2] = groups[0:59:2]  # 60 rows that contradict one another
    few = Claims(groups, alone.captions)
    of_few, of_alone = (judged_beforehand(claims, losses, made_wrong, soft=False)[1] for claims in (few, alone))
    torch.testing.assert_close(of_few[:60], of_alone[:60])
    groups[1:400:2] = groups[0:399:2]  # the control: enough of them
    control = judged_beforehand(Claims(groups, alone.captions), losses, made_wrong, soft=False)[1]
    assert not torch.equal(control[:60], of_alone[:60])
