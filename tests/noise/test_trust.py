"""What a training keeps of each pair, and what it makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmcl.config import NoiseSection
from mmcl.errors import ShapeError
from mmcl.noise.claims import Claims
from mmcl.noise.trust import PairTrust
from mmcl.noise.two_components import clean_probability

ROWS = torch.arange(100)
LOSSES = torch.cat([torch.linspace(0, 1, 70), torch.linspace(5, 6, 30)])


def trust(method: str = "mixture", claims: Claims | None = None, **settings: Any) -> PairTrust:
    section = NoiseSection(method=method, **{"warmup_epochs": 1, **settings})
    return PairTrust(section, claims or Claims.alone(len(ROWS)))


def test_losses_are_moving_averages_by_row() -> None:
    kept = trust(loss_momentum=0.75)
    kept.take(torch.tensor([3, 1]), torch.tensor([4.0, 8.0]))
    kept.take(torch.tensor([3]), torch.tensor([0.0]))
    assert kept.losses[[1, 3]].tolist() == [8.0, 3.0]
    assert int(kept.losses.isnan().sum()) == 98
    kept.take(torch.tensor([5, 5]), torch.tensor([1.0, 3.0]))  # twice in a batch: its mean
    kept.take(torch.tensor([7]), torch.tensor([torch.nan]))
    assert float(kept.losses[5]) == 2.0
    assert bool(kept.losses[7].isnan())


def test_all_pairs_count_until_the_warm_up_is_over() -> None:
    kept = trust(warmup_epochs=2)
    for _ in range(2):
        assert torch.equal(kept.weights, torch.ones(100))
        assert kept.summary() == {}
        for part in ROWS.chunk(7):
            kept.take(part, LOSSES[part])
    assert kept.has_begun
    torch.testing.assert_close(kept.weights, clean_probability(LOSSES))
    assert float(kept.summary()["noise/clean_share"]) == pytest.approx(0.7, abs=0.02)
    assert kept.trusted(torch.tensor([0, 99])).tolist() == [True, False]


def test_weights_by_method() -> None:
    losses = LOSSES + torch.linspace(0, 3, 100)  # what is in between has a probability in between
    drop, small = trust(weighting="drop"), trust("small_loss", share=0.2, ramp_epochs=2)
    estimated = trust("small_loss", ramp_epochs=0)
    for kept in (drop, small, estimated):
        kept.take(ROWS, losses)
    assert set(drop.weights.tolist()) == {0.0, 1.0}
    assert torch.equal(drop.weights == 1, drop.clean >= 0.5)
    assert int((small.weights == 0).sum()) == 10  # half of the ramp
    small.take(ROWS, losses)
    assert (small.weights == 0).nonzero().flatten().tolist() == losses.argsort()[80:].sort().values.tolist()
    assert int((estimated.weights == 0).sum()) == int(float(1 - estimated.clean.mean()) * 100)


def test_pairs_of_one_claim_are_judged_together() -> None:
    claims = ROWS.clone()
    claims[99] = 0  # the same caption for the same group: one claim
    losses = LOSSES.clone()
    losses[0], losses[99] = 5.5, 5.5
    kept = trust(claims=Claims(claims, claims))
    kept.take(ROWS, losses)
    assert float(kept.weights[0]) == float(kept.weights[99]) < 0.1
    losses[0] = 0.0
    alone, together = trust(), trust(claims=Claims(claims, claims))
    for one in (alone, together):
        one.take(ROWS, losses)
    assert float(alone.weights[0]) > 0.9 > 0.1 > float(alone.weights[99])
    assert float(together.weights[0]) == float(together.weights[99])


def test_pairs_that_were_never_seen_are_trusted() -> None:
    kept = trust()
    kept.take(torch.arange(50, 100).repeat(2), LOSSES[50:].repeat(2))
    assert kept.has_begun
    assert torch.equal(kept.weights[:50], torch.ones(50))
    assert bool((kept.weights[70:] < 0.1).all())


def test_a_state_that_is_brought_back_goes_on_alike() -> None:
    one, other = trust(warmup_epochs=2), trust(warmup_epochs=2)
    one.take(ROWS, LOSSES)
    one.take(ROWS[:40], LOSSES[:40])
    other.load_state_dict(one.state_dict())
    for kept in (one, other):
        kept.take(ROWS[40:], LOSSES[40:])
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert one.has_begun


def test_the_average_follows_quickly_at_first() -> None:
    kept, found = trust("ema_agreement", ema_momentum=0.5), []
    for _ in range(10):
        found.append(kept.ema_momentum)
        kept.take(ROWS[:3], LOSSES[:3])
    assert found[:3] == pytest.approx([1 / 10, 2 / 11, 3 / 12])
    assert found[8:] == [0.5, 0.5]
    assert kept.needs_ema
    assert not trust("mixture").needs_ema


def test_what_does_not_fit_is_refused() -> None:
    kept = trust()
    with pytest.raises(ShapeError, match=r"one shape \(b,\)"):
        kept.take(ROWS, LOSSES[:3])
    with pytest.raises(ShapeError, match="want 0 to 99"):
        kept.take(torch.tensor([100]), torch.tensor([1.0]))
    kept.take(torch.tensor([], dtype=torch.int64), torch.tensor([]))
    assert bool(kept.losses.isnan().all())


def test_judged_beforehand_it_has_begun_and_takes_nothing_in() -> None:
    found = trust("cross_fit")
    assert not found.has_begun
    assert found.judge(LOSSES, torch.linspace(5, 6, 100)) > 0.8
    assert found.has_begun
    left_out = found.weights == 0
    assert float(left_out[70:].float().mean()) > 0.9
    assert not bool(found.trusted(left_out.nonzero()[:, 0]).any())
    before = found.weights.clone(), found.clean.clone()
    found.take(torch.arange(100), torch.full((100,), 9.0))
    torch.testing.assert_close((found.weights, found.clean), before)
    soft = trust("cross_fit", weighting="soft")
    soft.judge(LOSSES, torch.linspace(5, 6, 100))
    torch.testing.assert_close(soft.weights, soft.clean)
    assert not torch.equal(soft.weights, found.weights)


def test_trust_is_taken_over_with_captions() -> None:
    judged, own = trust("cross_fit"), trust("cross_fit")
    judged.judge(LOSSES, torch.linspace(5, 6, 100))
    rows = torch.arange(100)
    rows[99] = 0
    own.take_over(judged, rows)
    assert own.has_begun
    torch.testing.assert_close(own.weights[:99], judged.weights[:99])
    assert float(own.weights[99]) == 1.0 != float(judged.weights[99])
