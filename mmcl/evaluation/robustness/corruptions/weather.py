"""Weather: snow, frost, fog and glaring light."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.evaluation.robustness.corruptions.sampling import PAPER_SIDE, fractal_noise, from_numpy, side_scale, smear

# Mean and deviation of the flakes' noise, their size, the least value that is a flake, radius and sigma of their
# fall, and how much of the picture's own colour stays. Sizes, radii and sigmas in pixels of a picture of 224.
_SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
_FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # weights of picture and frost
_FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # weight, decay of the fractal noise
_BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
_LUMA = (0.299, 0.587, 0.114)
_ICE = (0.88, 0.95, 1.0)


def snow(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """Flakes, drawn out along their fall, over a picture that is whitened with them.

    Flakes are drawn for a picture of 224 pixels and brought to the size of this one: they cover as much of any.
    """
    mean, std, size, least, radius, sigma, own = _SNOW[severity - 1]
    # A strip that is far longer than high would need a layer of any length; it gets drawn-out flakes.
    height, width = (min(round(n / side_scale(pixels)), 8 * PAPER_SIDE) for n in pixels.shape[-2:])
    noise = from_numpy(rng.normal(mean, std, (1, 1, math.ceil(height / size), math.ceil(width / size))))
    flakes = F.interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)[0]
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    flakes = smear(flakes, radius=radius, sigma=sigma, degrees=rng.uniform(-135, -45))
    flakes = F.interpolate(flakes[None], size=pixels.shape[-2:], mode="bilinear", antialias=True)[0]
    grey = (torch.tensor(_LUMA).view(3, 1, 1) * pixels).sum(0, keepdim=True)
    whitened = own * pixels + (1 - own) * torch.maximum(pixels, grey * 1.5 + 0.5)
    return whitened + flakes + flakes.flip(-2, -1)


def frost(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """The weighted sum of the picture and of ice: bright ridges of fractal noise, denser towards the edges.

    Deviation: the original lays one of six photographs of frosted glass over the picture; the weights are its own.
    """
    own, weight = _FROST[severity - 1]
    return own * pixels + weight * _ice(*pixels.shape[-2:], rng)


def _ice(height: int, width: int, rng: np.random.RandomState) -> Tensor:
    """(3, height, width) in [0, 1], bluish white on black."""
    veins = [1 - (2 * fractal_noise(height, width, decay=1.4, rng=rng) - 1).abs() for _ in range(4)]
    crystals = torch.stack(veins).pow(16).amax(0)
    down, right = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    outward = torch.maximum(down.abs()[:, None], right.abs()[None, :])  # (h, w): 0 in the middle, 1 at the edges
    patches = fractal_noise(height, width, decay=2.0, rng=rng)
    cover = (1.6 * patches + 0.8 * outward - 0.9).clamp(0.05, 1)
    return torch.tensor(_ICE).view(3, 1, 1) * cover * (0.08 + 0.92 * crystals)


def fog(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """``(x + c * cloud) * m / (m + c)`` with m the brightest value of the picture, c from 1.5 to 3.

    A picture that is black all over has m = 0 and stays black, as in the original. Deviation: the cloud is octaves of
    smooth noise with every grey equally frequent, where the original draws a plasma map by diamonds and squares; the
    decays are its own. Severities 3 and 4 have one weight and differ in the cloud's grain.
    """
    weight, decay = _FOG[severity - 1]
    noise = fractal_noise(*pixels.shape[-2:], decay=decay, rng=rng)
    ranks = noise.flatten().argsort(stable=True).argsort(stable=True)
    cloud = (ranks / max(1, len(ranks) - 1)).view_as(noise)
    brightest = pixels.max()
    return (pixels + weight * cloud) * brightest / (brightest + weight)


def brightness(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """The value of HSV raised by 0.1 to 0.5, up to 1; hue and saturation stay."""
    value = pixels.amax(0, keepdim=True)
    raised = (value + _BRIGHTNESS[severity - 1]).clamp(max=1)
    # Hue and saturation are ratios, so that all three channels grow by one factor; black has neither and turns grey.
    return torch.where(value > 0, pixels * raised / value.clamp(min=1e-6), raised)
