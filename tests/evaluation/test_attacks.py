"""`fgsm` and `pgd`: closed forms, the box, and a small classifier in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation import fgsm, pgd

RANGE = {"low": 0.0, "high": 1.0}


def pictures(count: int = 6, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def classifier() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that knows its 64 pictures."""
    torch.manual_seed(0)
    images, labels = pictures(64), torch.arange(64) % 4
    images = images * 0.4 + 0.3 + 0.2 * F.one_hot(labels, 4)[:, :3, None, None]
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(288, 4)
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval(), images, labels


def loss_of(net: nn.Module, labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda pixels: F.cross_entropy(net(pixels), labels, reduction="sum")


def test_a_linear_model_is_attacked_in_closed_form() -> None:
    x, weight = pictures(), pictures(1, seed=1)[0] - 0.5
    weight[:, 0] = 0

    def linear(pixels: Tensor) -> Tensor:
        return (pixels * weight).sum()

    # Nothing within the box raises a linear loss more than epsilon times the sign of its weights.
    best = (x + 0.1 * weight.sign()).clamp(0, 1)
    one = fgsm(linear, x, epsilon=0.1, **RANGE)
    torch.testing.assert_close(one, best)
    assert torch.equal(one[:, :, 0], x[:, :, 0]), "where there is no gradient nothing moves"
    assert not torch.allclose(one, x)
    many = pgd(linear, x, epsilon=0.1, step=0.03, steps=10, generator=torch.Generator().manual_seed(0), **RANGE)
    torch.testing.assert_close(many[:, :, 1:], best[:, :, 1:])


def test_a_step_is_goodfellows_by_hand(classifier: tuple) -> None:
    net, images, labels = classifier
    leaf = images.clone().requires_grad_()
    F.cross_entropy(net(leaf), labels, reduction="sum").backward()
    expected = (images + 0.05 * leaf.grad.sign()).clamp(0, 1)
    net.zero_grad(set_to_none=True)
    torch.testing.assert_close(fgsm(loss_of(net, labels), images, epsilon=0.05, **RANGE), expected)
    # Two projected steps, written out.
    x = images
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        gradient = torch.autograd.grad(F.cross_entropy(net(leaf), labels, reduction="sum"), leaf)[0]
        x = torch.clamp(x + 0.04 * gradient.sign(), images - 0.05, images + 0.05).clamp(0, 1)
    torch.testing.assert_close(pgd(loss_of(net, labels), images, epsilon=0.05, step=0.04, steps=2, **RANGE), x)
    assert not torch.allclose(x, expected)


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2])
def test_pgd_is_at_least_as_strong(classifier: tuple, epsilon: float) -> None:
    net, images, labels = classifier
    loss = loss_of(net, labels)
    start = torch.Generator().manual_seed(0)
    noise = (images + epsilon * (torch.rand(images.shape, generator=start) * 2 - 1)).clamp(0, 1)
    by_step = fgsm(loss, images, epsilon=epsilon, **RANGE)
    by_steps = pgd(loss, images, epsilon=epsilon, step=epsilon / 4, steps=10, generator=start, **RANGE)
    with torch.no_grad():
        losses = [float(loss(one)) for one in (images, noise, by_step, by_steps)]
        right = [(net(one).argmax(1) == labels).float().mean() for one in (images, noise, by_step, by_steps)]
    assert losses[0] < losses[2]
    assert losses[1] < losses[2] <= losses[3]
    assert right[0] >= right[2] >= right[3]
    assert right[0] > 0.95
    for moved in (by_step, by_steps):
        assert float((moved - images).abs().max()) <= epsilon + 1e-6
        assert float(moved.min()) >= 0
        assert float(moved.max()) <= 1


def test_bounds_by_channel() -> None:
    mean, std = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1), torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1)
    pixels = pictures()
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 1
    x = (pixels - mean) / std
    box = {"epsilon": 8 / 255 / std, "low": (0 - mean) / std, "high": (1 - mean) / std}
    weight = pictures(1, seed=2) - 0.5
    for moved in (
        fgsm(lambda p: (p * weight).sum(), x, **box),
        pgd(lambda p: (p * weight).sum(), x, step=2 / 255 / std, steps=8, **box),
    ):
        back = moved * std + mean
        torch.testing.assert_close(back, (pixels + 8 / 255 * weight.sign()).clamp(0, 1), atol=1e-5, rtol=0)


def test_nothing_but_the_pixels_changes(classifier: tuple) -> None:
    net, images, labels = classifier
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net[0].weight.grad = torch.ones_like(net[0].weight)
    given = images.clone()
    with torch.no_grad():  # as evaluators run
        moved = pgd(loss_of(net, labels), given, epsilon=0.1, step=0.05, steps=3, **RANGE)
    assert torch.equal(given, images)
    assert not given.requires_grad
    assert not moved.requires_grad
    assert not net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net[0].weight.grad, torch.ones_like(net[0].weight))
    assert net[5].weight.grad is None
    net[0].weight.grad = None
    assert not torch.equal(moved, images)


def test_nothing_to_do() -> None:
    x = pictures()

    def loss(pixels: Tensor) -> Tensor:
        return pixels.square().sum()

    assert torch.equal(fgsm(loss, x, epsilon=0, **RANGE), x)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(pgd(loss, x, epsilon=0, step=0.1, steps=3, generator=generator, **RANGE), x)
    assert fgsm(loss, x[:0], epsilon=0.1, **RANGE).shape == (0, 3, 8, 8)
    assert pgd(loss, x[:0], epsilon=0.1, step=0.1, steps=1, **RANGE).shape == (0, 3, 8, 8)
    first = pgd(loss, x, epsilon=0.1, step=0.001, steps=1, generator=torch.Generator().manual_seed(0), **RANGE)
    again = pgd(loss, x, epsilon=0.1, step=0.001, steps=1, generator=torch.Generator().manual_seed(0), **RANGE)
    other = pgd(loss, x, epsilon=0.1, step=0.001, steps=1, generator=torch.Generator().manual_seed(1), **RANGE)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_arguments() -> None:
    x = pictures()
    with pytest.raises(ConfigError, match="epsilon is"):
        fgsm(lambda p: p.sum(), x, epsilon=-0.1, **RANGE)
    with pytest.raises(ConfigError, match="step is"):
        pgd(lambda p: p.sum(), x, epsilon=0.1, step=-1, steps=1, **RANGE)
    with pytest.raises(ConfigError, match="steps is 0"):
        pgd(lambda p: p.sum(), x, epsilon=0.1, step=0.1, steps=0, **RANGE)
    with pytest.raises(ConfigError, match="does not depend on the pixels"):
        fgsm(lambda p: p.detach().sum(), x, epsilon=0.1, **RANGE)
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(ConfigError, match="does not depend on the pixels"):
        fgsm(lambda p: weight.sum(), x, epsilon=0.1, **RANGE)
    with pytest.raises(ShapeError, match="NaN or infinite"):
        fgsm(lambda p: (p - p).sqrt().sum(), x, epsilon=0.1, **RANGE)
    with pytest.raises(ShapeError, match="floating"):
        fgsm(lambda p: p.sum(), (x * 255).to(torch.uint8), epsilon=0.1, **RANGE)
