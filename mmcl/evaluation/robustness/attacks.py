"""`fgsm` and `pgd`: the small change of an image that hurts most, for any torch function of pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError

Loss = Callable[[Tensor], Tensor]


def fgsm(
    loss: Loss, pixel_values: Tensor, *, epsilon: float | Tensor, low: float | Tensor, high: float | Tensor
) -> Tensor:
    """The fast gradient sign method: one step of ``epsilon`` in every pixel, up the loss.

    ``clip(x + epsilon * sign(gradient of loss at x), low, high)``

    The model behind the loss is left as it is: no ``.grad`` is written, no mode changed. A pixel without gradient does
    not move.

    Args:
        loss: pixel values (b, 3, h, w) -> a scalar to be made larger, a sum over the batch (a mean does as well).
        pixel_values: (b, 3, h, w) floating, of any range; the batch may be empty.
        epsilon: the largest change of a pixel, not negative, in units of ``pixel_values``: for pixels normalised by
            ``(x - mean) / std``, eps of the pixel range is ``eps / std``, a tensor (3, 1, 1). 0 changes nothing.
        low, high: what pixels may be, numbers or tensors likewise.

    Returns:
        (b, 3, h, w), without gradient.

    Raises:
        ConfigError: a negative epsilon, or a loss that does not depend on the pixels.
        ShapeError: the gradient is NaN or infinite, or pixel values are not floating.

    Source:
        Goodfellow et al. 2015, "Explaining and Harnessing Adversarial Examples", section 4. Deviation: pixels are cut
        to their range, as its experiments do.

    Example:
        >>> x = torch.full((1, 3, 1, 1), 0.5)
        >>> fgsm(lambda pixels: pixels.sum(), x, epsilon=0.1, low=0.0, high=1.0).flatten()
        tensor([0.6000, 0.6000, 0.6000])
    """
    epsilon, low, high = _bounds(pixel_values, epsilon, low, high)
    step = epsilon * _gradient(loss, pixel_values).sign()
    return _clip(pixel_values.detach() + step, low, high)


def pgd(
    loss: Loss,
    pixel_values: Tensor,
    *,
    epsilon: float | Tensor,
    step: float | Tensor,
    steps: int,
    low: float | Tensor,
    high: float | Tensor,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent: ``steps`` small steps of `fgsm`, each brought back into the box around the image.

    ``x[t + 1] = clip(x[t] + step * sign(gradient at x[t]), x[0] - epsilon, x[0] + epsilon)``, and to the range

    Args:
        loss, pixel_values, epsilon, low, high: as for `fgsm`.
        step: the change of a pixel in one step, not negative, in units of ``pixel_values``.
        steps: at least 1.
        generator: of a start drawn evenly within epsilon, on the CPU; None: the image itself is the start.

    Returns:
        (b, 3, h, w), without gradient: the last step's, whether or not another had a higher loss.

    Raises:
        ConfigError: a negative epsilon or step, ``steps`` below 1, or a loss that does not depend on the pixels.
        ShapeError: a gradient is NaN or infinite, or pixel values are not floating.

    Source:
        Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks", equations 2 and 3 (section
        2.1), l-infinity.

    Example:
        >>> x = torch.full((1, 3, 1, 1), 0.5)
        >>> pgd(lambda p: p.sum(), x, epsilon=0.1, step=0.04, steps=9, low=0.0, high=1.0).flatten()
        tensor([0.6000, 0.6000, 0.6000])
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; want at least 1")
    epsilon, low, high = _bounds(pixel_values, epsilon, low, high)
    step, _, _ = _bounds(pixel_values, step, low, high, name="step")
    clean = pixel_values.detach()
    current = clean
    if generator is not None:
        drawn = torch.rand(clean.shape, generator=generator).to(clean) * 2 - 1
        current = _clip(clean + epsilon * drawn, low, high)
    for _ in range(steps):
        moved = current + step * _gradient(loss, current).sign()
        current = _clip(torch.minimum(torch.maximum(moved, clean - epsilon), clean + epsilon), low, high)
    return current


def _bounds(
    pixel_values: Tensor, size: float | Tensor, low: float | Tensor, high: float | Tensor, *, name: str = "epsilon"
) -> tuple[Tensor, Tensor, Tensor]:
    """The three as tensors like the pixels, known to be sound."""
    if not pixel_values.is_floating_point():
        raise ShapeError(f"pixel_values needs a floating dtype, got {pixel_values.dtype}; normalise the images first")
    size, low, high = (torch.as_tensor(value).to(pixel_values) for value in (size, low, high))
    if not (size >= 0).all():
        raise ConfigError(f"{name} is {size.flatten().tolist()}; want 0 or more")
    return size, low, high


def _gradient(loss: Loss, pixel_values: Tensor) -> Tensor:
    """The loss's gradient at the pixels, and at nothing else: parameters keep theirs."""
    if not pixel_values.numel():
        return torch.zeros_like(pixel_values)
    with torch.enable_grad():
        leaf = pixel_values.detach().clone().requires_grad_()
        value = loss(leaf)
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise ConfigError("the loss does not depend on the pixels; compute it from the tensor it is called with")
    if not gradient.isfinite().all():
        raise ShapeError("the loss's gradient is NaN or infinite; look at the model, or run it in float32")
    return gradient


def _clip(pixel_values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(pixel_values, low), high)
