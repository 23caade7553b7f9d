"""What programs do to pictures: contrast, elastic warping, pixelation and JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcl.evaluation.robustness.corruptions.sampling import from_numpy, gaussian_blur, pixel_grid, sample_at, side_scale

_CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
_ELASTIC = ((0.02, 0.01), (0.035, 0.015), (0.05, 0.02), (0.07, 0.02), (0.12, 0.02))  # strength, slant; of the side
_ELASTIC_SIGMA = 0.01  # of the side, and at least a pixel
_PIXELATE = (0.6, 0.5, 0.4, 0.3, 0.25)
_JPEG_QUALITY = (25, 18, 15, 10, 7)


def contrast(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """``c * (x - mean) + mean`` with each channel's mean, c from 0.4 down to 0.05."""
    mean = pixels.mean((1, 2), keepdim=True)
    return _CONTRAST[severity - 1] * (pixels - mean) + mean


def elastic_transform(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """Slanted a little, and every small region moved its own way; edges are mirrored.

    Deviation: severities 3 to 5 have the published constants. The published 1 and 2 are of another kind, coarse waves
    that move pixels farther than 5 does; here they are the same fine waves, weaker. The waves' height is scaled with
    the side too, which the published formula leaves as it is for 224 pixels.
    """
    strength, slant = _ELASTIC[severity - 1]
    side = min(pixels.shape[-2:])
    y, x = pixel_grid(pixels)
    # Three corners of a square move on their own, which makes an affine map of the plane.
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]]) * side / 3
    moved = corners + from_numpy(rng.uniform(-1, 1, (3, 2))) * slant * side
    affine = torch.linalg.solve(torch.cat([corners, torch.ones(3, 1)], dim=1), moved)  # (3, 2)
    middle = torch.tensor([(pixels.shape[-2] - 1) / 2, (pixels.shape[-1] - 1) / 2])
    places = torch.stack([y - middle[0], x - middle[1], torch.ones_like(y)], dim=-1) @ affine + middle
    waves = from_numpy(rng.uniform(-1, 1, (2, *pixels.shape[-2:])))
    # Blurred noise is as much weaker as its sigma is larger: of a picture of any size the same share moves.
    sigma = max(1.0, _ELASTIC_SIGMA * side)
    down, right = gaussian_blur(waves, sigma) * (strength / _ELASTIC_SIGMA * sigma * side_scale(pixels))
    return sample_at(pixels, places[..., 0] + down, places[..., 1] + right, outside="reflection")


def pixelate(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """Made smaller, to 0.6 down to 0.25 of the side, and brought back to its size, each pixel a box."""
    image = _to_pil(pixels)
    size = [max(1, int(length * _PIXELATE[severity - 1])) for length in image.size]
    return _from_pil(image.resize(size, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX))


def jpeg_compression(pixels: Tensor, severity: int, rng: np.random.RandomState) -> Tensor:
    """Written as JPEG of quality 25 down to 7, and read again; what Pillow's library makes of it."""
    buffer = io.BytesIO()
    _to_pil(pixels).save(buffer, "JPEG", quality=_JPEG_QUALITY[severity - 1])
    with Image.open(buffer) as image:
        return _from_pil(image)


def _to_pil(pixels: Tensor) -> Image.Image:
    return Image.fromarray((pixels * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def _from_pil(image: Image.Image) -> Tensor:
    return from_numpy(np.array(image).transpose(2, 0, 1)) / 255
