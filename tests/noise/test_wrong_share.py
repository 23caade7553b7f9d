"""The share of wrong pairs and the odds of each, against the distributions that the losses are drawn from."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.noise.wrong_share import share_below, wrong_probability, wrong_share

APART = 3.0  # of the two normal distributions, in standard deviations


def drawn(share: float, *, count: int = 3000, seed: int = 0, apart: float = APART) -> tuple[Tensor, Tensor]:
    """Losses of which a share is wrong, the wrong ones last, and losses of pairs made wrong."""
    draw = torch.Generator().manual_seed(seed)
    wrong = round(share * count)
    losses = torch.randn(count, generator=draw)
    losses[count - wrong :] += apart
    return losses, torch.randn(count, generator=draw) + apart


def posterior(losses: Tensor, share: float) -> Tensor:
    """What the distributions themselves say, pair by pair."""
    found = []
    for loss in losses.double().tolist():
        right, wrong = (1 - share) * math.exp(-(loss**2) / 2), share * math.exp(-((loss - APART) ** 2) / 2)
        found.append(wrong / (right + wrong))
    return torch.tensor(found)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6])
def test_the_share_is_found(share: float) -> None:
    for seed in range(3):
        assert wrong_share(*drawn(share, seed=seed)) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_probability_is_the_posterior(share: float) -> None:
    losses, made_wrong = drawn(share)
    found = wrong_probability(losses, made_wrong)
    gap = (found - posterior(losses, share)).abs().mean()
    assert float(gap) < 0.03
    control = (found - posterior(losses, (share + 0.4) % 1)).abs().mean()
    assert float(control) > 2 * float(gap)


def test_it_never_falls_with_the_loss_and_stays_a_probability() -> None:
    losses, made_wrong = drawn(0.3)
    found = wrong_probability(losses, made_wrong)[losses.argsort()]
    assert bool((found.diff() >= 0).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_order_shift_and_scale_change_nothing() -> None:
    losses, made_wrong = drawn(0.3, count=400)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    found = wrong_probability(losses, made_wrong)
    torch.testing.assert_close(wrong_probability(3 * losses[order] + 2, 3 * made_wrong.flip(0) + 2), found[order])


def test_losses_like_those_of_wrong_pairs_are_all_wrong() -> None:
    losses, made_wrong = drawn(1.0)
    assert wrong_share(losses, made_wrong) > 0.95
    assert share_below(losses, made_wrong) == pytest.approx(0.5, abs=0.02)


def test_it_is_the_area_under_the_roc_curve() -> None:
    losses, made_wrong = ((8 * values).round() for values in drawn(0.3, count=300))  # with ties
    labels = [0] * 300 + [1] * 300
    expected = roc_auc_score(labels, torch.cat([losses, made_wrong]).numpy())
    assert share_below(losses, made_wrong) == pytest.approx(expected, abs=1e-12)
    assert share_below(made_wrong, losses) == pytest.approx(1 - expected, abs=1e-12)
    assert share_below(losses[:0], made_wrong) == 0.5


def test_few_losses_accuse_nobody() -> None:
    losses, made_wrong = drawn(0.5, count=19)
    assert wrong_share(losses, made_wrong) == 0
    assert wrong_probability(losses, made_wrong).tolist() == [0.0] * 19
    assert wrong_share(*drawn(0.5, count=20)) > 0


@pytest.mark.parametrize("losses", [torch.zeros(3, 2), torch.tensor([1.0, torch.nan])])
def test_other_shapes_and_values_are_refused(losses: Tensor) -> None:
    for call in (wrong_share, wrong_probability, share_below):
        with pytest.raises(ShapeError, match=r"losses need shape \(n,\) and finite values"):
            call(losses, torch.ones(30))
