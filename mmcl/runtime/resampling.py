"""Resizing of 8-bit images in numpy, bit for bit as torch resizes uint8 tensors with antialiasing."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mmcl.errors import ConfigError

_BLOCK = 16  # outputs a matrix product: neighbours share their inputs
_MOST_BITS = 22  # of a weight behind the point
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # how far a filter reaches, in pixels
INTERPOLATIONS = (*_SUPPORT, "nearest-exact")


class _Block(NamedTuple):
    """Outputs ``first`` to ``last`` of a row are inputs ``low`` to ``high`` times ``weights``, an integer matrix."""

    first: int
    last: int
    low: int
    high: int
    weights: np.ndarray  # (high - low, last - first) float64


def resize(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """An image of another size.

    Columns are resampled first and rounded to 8 bits, then rows. Weights are integers of 16 bits, all of a pass with
    as many bits behind the point as the largest leaves room for; sums are exact.

    Args:
        pixels: uint8 (3, h, w), h and w at least 1, in any memory layout.
        size: (height, width) wanted.
        interpolation: ``"bilinear"`` or ``"bicubic"``, antialiased, or ``"nearest-exact"``.

    Returns:
        uint8 (3, height, width); ``pixels`` itself where it has that size.

    Raises:
        ConfigError: another interpolation.

    Source: ATen's ``upsample_*2d_aa`` for bytes (a = -0.5 in the cubic), which follows Pillow's; Pillow itself rounds
    its weights to other numbers of bits and differs by up to one level.
    """
    if interpolation not in INTERPOLATIONS:
        raise ConfigError(f"interpolation is {interpolation!r}; want one of {', '.join(INTERPOLATIONS)}")
    height, width = pixels.shape[1:]
    if interpolation == "nearest-exact":
        # Where a place falls on the border of two pixels, torch's kernels for small and large outputs part.
        fused = sum(size) > 128
        return pixels[:, _nearest(height, size[0], fused)][:, :, _nearest(width, size[1], fused)]
    if width != size[1]:
        pixels = _columns(pixels, size[1], interpolation)
    return _rows(pixels, size[0], interpolation) if height != size[0] else pixels


def _nearest(size: int, wanted: int, fused: bool) -> np.ndarray:
    """The inputs that outputs copy; ``fused``: with one rounding for a product and a sum, as one instruction has it."""
    scale = np.float32(size) / np.float32(wanted)
    if fused:
        places = (np.float64(scale) * (np.arange(wanted) + 0.5) - 0.5).astype(np.float32)
        places = np.maximum(places, np.float32(0)) + np.float32(0.5)
    else:
        places = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale
    return np.minimum(np.floor(places).astype(np.int64), size - 1)


def _columns(pixels: np.ndarray, wanted: int, interpolation: str) -> np.ndarray:
    blocks, bits = _blocks(pixels.shape[2], wanted, interpolation)
    resized = np.empty((*pixels.shape[:2], wanted), dtype=np.uint8)
    for block in blocks:
        sums = pixels[:, :, block.low : block.high].astype(np.float64) @ block.weights
        resized[:, :, block.first : block.last] = _rounded(sums, bits)
    return resized


def _rows(pixels: np.ndarray, wanted: int, interpolation: str) -> np.ndarray:
    blocks, bits = _blocks(pixels.shape[1], wanted, interpolation)
    resized = np.empty((pixels.shape[0], wanted, pixels.shape[2]), dtype=np.uint8)
    for block in blocks:
        sums = block.weights.T @ pixels[:, block.low : block.high].astype(np.float64)
        resized[:, block.first : block.last] = _rounded(sums, bits)
    return resized


def _rounded(sums: np.ndarray, bits: int) -> np.ndarray:
    """Whole numbers with ``bits`` bits behind the point to the nearest levels, halves upwards."""
    sums += 1 << (bits - 1)
    sums *= 0.5**bits
    return np.clip(sums, 0, 255, out=sums).astype(np.uint8)


def _cubic(x: np.ndarray) -> np.ndarray:
    a = -0.5  # torch's and Pillow's, where they smooth; torch's cubic without antialiasing has -0.75
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=256)
def _blocks(size: int, wanted: int, interpolation: str) -> tuple[tuple[_Block, ...], int]:
    """The weights of one pass, and how many of their bits stand behind the point."""
    scale = size / wanted
    support = _SUPPORT[interpolation] * max(scale, 1.0)
    centers = scale * (np.arange(wanted) + 0.5)
    low = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    high = np.minimum((centers + support + 0.5).astype(np.int64), size)
    taps = np.arange(math.ceil(support) * 2 + 1)
    x = np.abs((low[:, None] + taps - centers[:, None] + 0.5) * (1 / scale if scale >= 1 else 1.0))  # (wanted, taps)
    weights = np.where(x < 1, 1 - x, 0.0) if interpolation == "bilinear" else _cubic(x)
    weights[taps >= (high - low)[:, None]] = 0.0
    total = np.cumsum(weights, axis=1)[:, -1:]  # one after the other, as a loop adds them
    weights = np.divide(weights, total, out=weights, where=total != 0)
    bits, largest = 0, weights.max()
    while bits < _MOST_BITS and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    whole = np.trunc(weights * (1 << bits) + np.where(weights < 0, -0.5, 0.5))
    blocks = []
    for first in range(0, wanted, _BLOCK):
        last = min(first + _BLOCK, wanted)
        matrix = np.zeros((high[last - 1] - low[first] + len(taps), last - first))
        for column, row in enumerate(range(first, last)):
            start = low[row] - low[first]
            matrix[start : start + len(taps), column] = whole[row]
        kept = int(high[last - 1] - low[first])
        blocks.append(_Block(first, last, int(low[first]), int(high[last - 1]), matrix[:kept]))
    return tuple(blocks), bits
