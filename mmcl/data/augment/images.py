"""Random changes to training images, each drawn from the row's own seed."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mmcl.config import AugmentSection


class Resizer(Protocol):
    """What augmentation needs of a tower's image preprocessing."""

    size: tuple[int, int]
    interpolation: str

    def resize_pixels(self, image: Tensor) -> Tensor: ...


class ImageAugmentation:
    """Crop, flip, colour jitter, grey, blur and erase (torchvision v2), on uint8 images.

    Args:
        section: which, and how strongly.
        resizer: the tower's preprocessing: the size and interpolation that crops are brought to.
    """

    def __init__(self, section: AugmentSection, resizer: Resizer) -> None:
        from torchvision.transforms import v2

        self._resize = None if section.crop_scale else resizer.resize_pixels
        steps: list[torch.nn.Module] = []
        if section.crop_scale:
            mode = v2.InterpolationMode(resizer.interpolation)
            steps.append(
                v2.RandomResizedCrop(list(resizer.size), section.crop_scale, section.crop_ratio, mode, antialias=True)
            )
        if section.flip:
            steps.append(v2.RandomHorizontalFlip(section.flip))
        if section.color_jitter:
            s = section.color_jitter
            jitter = v2.ColorJitter(0.8 * s, 0.8 * s, 0.8 * s, min(0.2 * s, 0.5))
            steps.append(v2.RandomApply([jitter], section.color_jitter_probability))
        if section.grayscale:
            steps.append(v2.RandomGrayscale(section.grayscale))
        if section.blur:
            kernel = max(3, int(0.1 * min(resizer.size)) // 2 * 2 + 1)  # SimCLR: a tenth of the image, odd
            steps.append(v2.RandomApply([v2.GaussianBlur(kernel, (0.1, 2.0))], section.blur))
        if section.erase:
            steps.append(v2.RandomErasing(section.erase))
        self._steps = v2.Compose(steps) if steps else None

    def __call__(self, image: Tensor, *, seed: int) -> Tensor:
        """uint8 (3, h, w) -> uint8 (3, H, W) of the tower's size; the same seed gives the same view."""
        if self._resize is not None:
            image = self._resize(image)
        if self._steps is None:
            return image
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._steps(image)
