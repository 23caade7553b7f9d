"""`corrupt`: one image, one kind of corruption, one severity, one seed."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.robustness.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from mmcl.evaluation.robustness.corruptions.digital import contrast, elastic_transform, jpeg_compression, pixelate
from mmcl.evaluation.robustness.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from mmcl.evaluation.robustness.corruptions.weather import brightness, fog, frost, snow

# Pixels in [0, 1] (3, h, w), severity from 1, random numbers -> pixels, which may leave [0, 1].
Corruption = Callable[[Tensor, int, np.random.RandomState], Tensor]

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}
SEVERITIES = (1, 2, 3, 4, 5)


@torch.no_grad()
def corrupt(image: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """An image as noise, blur, weather or a careless program would have left it.

    What is drawn (where the flakes fall, which way the camera moved) depends on the seed and the name alone, so that
    one image's severities are steps of one corruption. Random numbers come from NumPy's frozen ``RandomState``: the
    same on every machine; other arithmetic may round a pixel's last bit differently.

    Args:
        image: uint8 (3, h, w), RGB, at least one pixel.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of the draw.

    Returns:
        uint8 (3, h, w), a new tensor.

    Raises:
        ShapeError: the image has another shape or dtype.
        ConfigError: an unknown name, or another severity.

    Source:
        Hendrycks & Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
        section 3 and its published constants. Deviations: constants in pixels were chosen there for images of 224
        pixels and are scaled here with the shorter side; frost and fog are drawn from fractal noise and not taken from
        photographs or a plasma map; each function names its own further ones.

    Example:
        >>> image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
        >>> corrupt(image, "brightness", 1)[0, 0, 0]
        tensor(126, dtype=torch.uint8)
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ShapeError(f"image needs to be uint8 (3, h, w), got {image.dtype} {tuple(image.shape)}")
    check_corruption(name, severity)
    digest = hashlib.sha256(f"{name} {seed}".encode()).digest()
    rng = np.random.RandomState(int.from_bytes(digest[:4], "little"))
    pixels = CORRUPTIONS[name](image.cpu().float() / 255, severity, rng)
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def check_corruption(name: str, severity: int) -> None:
    """Refuse a corruption that there is not.

    Raises:
        ConfigError: an unknown name, or a severity other than 1 to 5.
    """
    if name not in CORRUPTIONS:
        near = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CORRUPTIONS)}"
        raise ConfigError(f"unknown corruption {name!r}; {hint}")
    if severity not in SEVERITIES:
        raise ConfigError(f"severity is {severity}; want 1 (slight) to 5 (strong)")
