"""Pairs mixed in feature space."""

from __future__ import annotations

import pytest
import torch

from mmcl.errors import ConfigError
from mmcl.noise.feature_mixup import FeatureMixup, Mixing


def test_a_mixture_by_hand() -> None:
    mixing = Mixing(torch.tensor([1, 2, 0]), torch.tensor([1.0, 0.75, 0.5]))
    features = torch.tensor([[4.0, 0.0], [0.0, 8.0], [2.0, 2.0]])
    assert mixing.of(features).tolist() == [[4.0, 0.0], [0.5, 6.5], [3.0, 1.0]]
    assert mixing.components(torch.tensor([7, 8, 9])).tolist() == [[7, 8], [8, 9], [9, 7]]


def test_shares_are_those_of_the_larger_part_of_a_beta() -> None:
    mixup = FeatureMixup(0.4, seed=0)
    mixing = mixup(torch.arange(4000))
    assert sorted(mixing.partners.tolist()) == list(range(4000))
    shares = torch.distributions.Beta(0.4, 0.4).sample((200_000,))
    wanted = torch.maximum(shares, 1 - shares)
    assert 0.5 <= float(mixing.shares.min()) <= float(mixing.shares.max()) <= 1
    assert float(mixing.shares.mean()) == pytest.approx(float(wanted.mean()), abs=0.01)
    assert float(FeatureMixup(8.0, seed=0)(torch.arange(4000)).shares.mean()) < float(wanted.mean()) - 0.1


def test_draws_follow_from_seed_step_and_rows_alone() -> None:
    rows, mixup = torch.arange(8), FeatureMixup(1.0, seed=3)
    before = torch.get_rng_state()
    first = mixup(rows).shares
    assert torch.equal(mixup(rows).shares, first)  # the second pass of gradient caching
    assert torch.equal(torch.get_rng_state(), before)
    mixup.after_step()
    resumed = FeatureMixup(1.0, seed=3)
    resumed.load_state_dict(mixup.state_dict())
    second = mixup(rows).shares
    assert torch.equal(resumed(rows).shares, second)
    others = (second, FeatureMixup(1.0, seed=4)(rows).shares, FeatureMixup(1.0, seed=3)(rows.flip(0)).shares)
    assert not any(torch.equal(first, other) for other in others)


def test_one_row_and_none() -> None:
    mixup = FeatureMixup(1.0, seed=0)
    features = torch.randn(1, 5)
    torch.testing.assert_close(mixup(torch.tensor([4])).of(features), features)
    assert mixup(torch.tensor([], dtype=torch.int64)).of(torch.zeros(0, 5)).shape == (0, 5)


def test_without_a_positive_alpha_there_is_no_mixup() -> None:
    with pytest.raises(ConfigError, match="alpha of a feature mixup is 0"):
        FeatureMixup(0.0, seed=0)
