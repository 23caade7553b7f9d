"""What several corruptions are made of: sampling between pixels, Gaussian blur, smearing, fractal noise."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Wider weights go through Fourier's transform, whose cost does not depend on them.
_DIRECT_SIDE = 11
PAPER_SIDE = 224  # pixels of the images that the published constants were chosen for


def side_scale(pixels: Tensor) -> float:
    """The factor from lengths in a picture of 224 pixels to lengths in this one (c, h, w): by its shorter side."""
    return min(pixels.shape[-2:]) / PAPER_SIDE


def from_numpy(values: np.ndarray) -> Tensor:
    """Random numbers as a float32 tensor."""
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def pixel_grid(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates y and x, (h, w) each, of every pixel of (c, h, w)."""
    height, width = pixels.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return y, x


def sample_at(pixels: Tensor, y: Tensor, x: Tensor, *, outside: str = "border") -> Tensor:
    """The picture at fractional coordinates, bilinear.

    Args:
        pixels: (c, h, w) floating.
        y, x: (h', w') in pixels; (0, 0) is the middle of the first pixel.
        outside: "border" repeats the edge, "reflection" mirrors there.

    Returns:
        (c, h', w').
    """
    height, width = pixels.shape[-2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return F.grid_sample(pixels[None], grid[None], mode="bilinear", padding_mode=outside, align_corners=False)[0]


def gaussian_blur(pixels: Tensor, sigma: float) -> Tensor:
    """(c, h, w) blurred by a Gaussian of ``sigma`` > 0 pixels, cut off at four of them; edges are repeated."""
    reach = max(1, math.ceil(4 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).to(pixels.dtype)
    planes = F.pad(pixels[:, None], (reach, reach, reach, reach), mode="replicate")  # (c, 1, h + 2r, w + 2r)
    return F.conv2d(F.conv2d(planes, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))[:, 0]


def smear(pixels: Tensor, *, radius: float, sigma: float, degrees: float) -> Tensor:
    """(c, h, w) drawn out one way, as a picture taken on the move.

    A pixel is the mean of the pixels up to ``2 * radius`` away in the direction given, with the weights
    ``exp(-distance ** 2 / (2 * sigma ** 2))``, as in ImageMagick's motion blur; edges are repeated.
    """
    distances = np.arange(0, 2 * radius + 0.25, 0.5)  # half pixels, so that slight blurs are not lost
    weights = np.exp(-(distances**2) / (2 * sigma**2))
    down, right = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    shares: dict[tuple[int, int], float] = {}
    for distance, weight in zip(distances, weights / weights.sum()):
        y, x = distance * down, distance * right
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                share = weight * (1 - abs(y - row)) * (1 - abs(x - column))
                if share > 1e-6:
                    shares[row, column] = shares.get((row, column), 0.0) + share
    reach = max(max(abs(row), abs(column)) for row, column in shares)
    weight = torch.zeros(2 * reach + 1, 2 * reach + 1)
    for (row, column), share in shares.items():
        weight[reach + row, reach + column] = share
    return weighted_mean(pixels, weight)


def weighted_mean(pixels: Tensor, weight: Tensor) -> Tensor:
    """The mean around every pixel.

    ``sum over (i, j) of weight[r + i, r + j] * pixels[:, y + i, x + j] / sum of weight``, edges being repeated.

    Args:
        pixels: (c, h, w) floating.
        weight: (2 r + 1, 2 r + 1), not negative.

    Returns:
        (c, h, w).
    """
    reach, (height, width) = len(weight) // 2, pixels.shape[-2:]
    padded = F.pad(pixels[None], (reach, reach, reach, reach), mode="replicate")[0]
    weight = weight / weight.sum()
    if len(weight) <= _DIRECT_SIDE:
        return F.conv2d(padded[:, None], weight[None, None])[:, 0]
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(weight, s=padded.shape[-2:]).conj()
    return torch.fft.irfft2(spectrum, s=padded.shape[-2:])[:, :height, :width]


def fractal_noise(height: int, width: int, *, decay: float, rng: np.random.RandomState) -> Tensor:
    """Clouds, (height, width) in [0, 1]: octaves of smooth noise, each twice as fine and 1 / ``decay`` as strong.

    A larger decay is smoother. Its lowest value is 0 and its highest 1; a single pixel is 0.
    """
    side = max(height, width)
    total = torch.zeros(1, 1, height, width)
    cells, strength = 2, 1.0
    while True:
        knots = from_numpy(rng.uniform(-1, 1, (1, 1, cells + 1, cells + 1)))
        octave = F.interpolate(knots, size=(side, side), mode="bicubic", align_corners=True)
        total += strength * octave[..., :height, :width]
        cells, strength = 2 * cells, strength / decay
        if cells > side:
            break
    total -= total.min()
    return (total / total.max().clamp(min=1e-6))[0, 0]
