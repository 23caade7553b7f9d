"""Blur: defocus, frosted glass, motion and zoom."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mmcl.evaluation.robustness.corruptions.sampling import (
    from_numpy,
    gaussian_blur,
    pixel_grid,
    sample_at,
    side_scale,
    smear,
    weighted_mean,
)

# In pixels of a picture of 224, but for numbers of rounds and zoom factors.
_DISK_RADIUS = (3, 4, 6, 8, 10)
_GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, rounds
_MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
_ZOOM = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))  # up to, in steps of
_ALIASING_SIGMA = 0.5


def defocus_blur(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """The mean over a disk of 3 to 10 pixels' radius, as a lens out of focus has it.

    Deviation: the disk's edge is smoothed by its coverage and a Gaussian of half a pixel, at every severity alike.
    """
    radius = _DISK_RADIUS[severity - 1] * side_scale(pixels)
    reach = math.ceil(radius) + 2
    line = torch.arange(-reach, reach + 1).float()
    disk = (radius + 0.5 - torch.hypot(line[:, None], line)).clamp(0, 1)
    return weighted_mean(pixels, gaussian_blur(disk[None], _ALIASING_SIGMA)[0])


def glass_blur(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """Blurred, every pixel then taken from somewhere near it, in one to three rounds, and blurred again.

    Deviation: pixels are read between their neighbours, up to the reach away, where the original exchanges whole
    pixels one after the other; so it works below 224 pixels too, where the reach is a fraction of a pixel.
    """
    sigma, reach, rounds = _GLASS[severity - 1]
    scale = side_scale(pixels)
    shape = (2, *pixels.shape[-2:])
    pixels = gaussian_blur(pixels, sigma * scale)
    y, x = pixel_grid(pixels)
    for _ in range(rounds):
        down, right = from_numpy(rng.uniform(-1, 1, shape)) * (reach * scale)
        pixels = sample_at(pixels, y + down, x + right)
    return gaussian_blur(pixels, sigma * scale)


def motion_blur(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """Drawn out within 45 degrees of the horizontal, as by a camera that moves."""
    radius, sigma = _MOTION[severity - 1]
    scale = side_scale(pixels)
    return smear(pixels, radius=radius * scale, sigma=sigma * scale, degrees=rng.uniform(-45, 45))


def zoom_blur(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """The mean of the picture and of it magnified about its middle, by up to 1.1 to 1.3: moving towards a thing."""
    stop, step = _ZOOM[severity - 1]
    factors = np.arange(1, stop, step)
    y, x = pixel_grid(pixels)
    middle_y, middle_x = (pixels.shape[-2] - 1) / 2, (pixels.shape[-1] - 1) / 2
    total = pixels.clone()
    for factor in factors:
        total += sample_at(pixels, middle_y + (y - middle_y) / factor, middle_x + (x - middle_x) / factor)
    return total / (len(factors) + 1)
