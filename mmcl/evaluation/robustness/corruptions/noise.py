"""Noise: Gaussian, shot (Poisson) and impulse (salt and pepper), one draw a channel's pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmcl.evaluation.robustness.corruptions.sampling import from_numpy

_GAUSSIAN_STD = (0.08, 0.12, 0.18, 0.26, 0.38)
_PHOTONS = (60, 25, 12, 5, 3)
_IMPULSES = (0.03, 0.06, 0.09, 0.17, 0.27)


def gaussian_noise(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """``x + N(0, c)``, c from 0.08 to 0.38 of the pixel range: poor light."""
    return pixels + _GAUSSIAN_STD[severity - 1] * from_numpy(rng.standard_normal(tuple(pixels.shape)))


def shot_noise(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """``Poisson(x * c) / c``, c from 60 photons to 3 at full brightness: light comes in pieces."""
    photons = _PHOTONS[severity - 1]
    return from_numpy(rng.poisson(pixels.double().numpy() * photons) / photons)


def impulse_noise(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """A share of 3 % to 27 % of the values becomes 0 or 1, half of it each: broken bits."""
    share = _IMPULSES[severity - 1]
    drawn = from_numpy(rng.uniform(size=tuple(pixels.shape)))
    pixels = torch.where(drawn < share / 2, 0.0, pixels)
    return torch.where(drawn > 1 - share / 2, 1.0, pixels)
