"""Two Gaussians over losses: the posterior of the smaller mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.noise.two_components import clean_probability


def drawn(right: int, wrong: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Losses, and which are of wrong pairs."""
    draw = np.random.default_rng(seed)
    losses = np.concatenate([draw.normal(1.0, 0.4, right), draw.normal(4.0, 0.8, wrong)])
    order = draw.permutation(right + wrong)
    return torch.from_numpy(losses[order]), torch.from_numpy((np.arange(right + wrong) >= right)[order])


def naive_posterior(losses: np.ndarray) -> np.ndarray:
    """Expectation and maximisation, written out, from the same start; in losses scaled to [0, 1]."""
    x = (losses - losses.min()) / (losses.max() - losses.min())
    means, variances, shares = np.quantile(x, [0.25, 0.9]), np.full(2, 0.02), np.full(2, 0.5)
    for _ in range(500):
        density = shares * np.exp(-((x[:, None] - means) ** 2) / (2 * variances)) / np.sqrt(2 * np.pi * variances)
        part = density / density.sum(1, keepdims=True)
        weight = part.sum(0)
        means, shares = (part * x[:, None]).sum(0) / weight, weight / len(x)
        variances = (part * (x[:, None] - means) ** 2).sum(0) / weight + 5e-4
    return part[:, 0]


def test_it_is_the_posterior_between_the_means() -> None:
    losses, _ = drawn(700, 300)
    found, wanted = clean_probability(losses).numpy(), naive_posterior(losses.numpy())
    between = (losses.numpy() > 1.2) & (losses.numpy() < 3.8)
    assert between.sum() > 100
    np.testing.assert_allclose(found[between], wanted[between], atol=0.02)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_it_finds_wrong_pairs_and_their_share(share: float) -> None:
    losses, wrong = drawn(round(1000 * (1 - share)), round(1000 * share))
    found = clean_probability(losses)
    assert float((found < 0.5).eq(wrong).float().mean()) > 0.97
    assert float(1 - found.mean()) == pytest.approx(share, abs=0.03)


def test_it_never_grows_with_the_loss() -> None:
    # A wide component of small losses: beyond the other mean the plain posterior would turn back.
    draw = np.random.default_rng(3)
    losses = torch.from_numpy(np.concatenate([draw.normal(0, 2.0, 800), draw.normal(4, 0.3, 200)]))
    found = clean_probability(losses)[losses.argsort()]
    assert bool((found.diff() <= 1e-6).all())
    assert float(found[-1]) < 0.5 < float(found[0])


def test_order_shift_and_scale_change_nothing() -> None:
    losses, _ = drawn(300, 100)
    found = clean_probability(losses)
    assert torch.equal(clean_probability(losses.flip(0)).flip(0), found)
    torch.testing.assert_close(clean_probability(5 * losses - 2), found, atol=1e-4, rtol=0)
    assert torch.equal(clean_probability(losses), found)
    assert not torch.allclose(clean_probability(losses**2), found, atol=1e-3)  # the control


@pytest.mark.parametrize("losses", [torch.tensor([]), torch.tensor([1.0, 9.0]), torch.full((50,), 2.0)])
def test_where_nothing_can_be_told_apart_all_are_right(losses: Tensor) -> None:
    assert torch.equal(clean_probability(losses), torch.ones(len(losses)))


@pytest.mark.parametrize("losses", [torch.zeros(3, 3), torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf])])
def test_other_shapes_and_values_are_refused(losses: Tensor) -> None:
    with pytest.raises(ShapeError, match="leave out unseen pairs"):
        clean_probability(losses)


def test_many_losses_are_fitted_by_a_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.noise import two_components

    losses, _ = drawn(1400, 600)
    whole = clean_probability(losses)
    monkeypatch.setattr(two_components, "MOST_FITTED", 500)
    torch.testing.assert_close(clean_probability(losses), whole, atol=0.05, rtol=0)
