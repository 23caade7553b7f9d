"""Random changes to training images and captions, each drawn from the row's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mmcl.config import AugmentSection, CaptionsSection


class Resizer(Protocol):
    """What augmentation needs of a tower's image preprocessing."""

    size: tuple[int, int]
    interpolation: str

    def resize_pixels(self, image: Tensor) -> Tensor: ...


def row_seed(seed: int, epoch: int, row: int) -> int:
    """One 63-bit seed per run, epoch and row, whichever process or worker reads it (splitmix64's finaliser)."""
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + row * 0x94D049BB133111EB + 1) & (2**64 - 1)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = ((value ^ (value >> shift)) * factor) & (2**64 - 1)
    return (value ^ (value >> 31)) >> 1


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


def with_tags(caption: str, tags: Sequence[str]) -> str:
    """A caption with its row's tags appended: ``"red apple, apple, fruit, red"``."""
    return ", ".join([caption, *tags])


def sample_caption(texts: Sequence[str], tags: Sequence[str] | None, section: CaptionsSection, *, seed: int) -> str:
    """One of a row's captions, with the row's tags appended now and then.

    Args:
        texts: the row's captions, at least one.
        tags: its tags, or None.
        section: which caption, and how often the tags.
        seed: the same seed gives the same caption.
    """
    caption = texts[0] if section.sample == "first" else texts[row_seed(seed, 0, 1) % len(texts)]
    if tags and row_seed(seed, 0, 2) < section.tags_probability * 2**63:
        return with_tags(caption, tags)
    return caption


def possible_captions(texts: Sequence[str], tags: Sequence[str] | None, section: CaptionsSection) -> list[str]:
    """Everything ``sample_caption`` can give for a row: what a cache of text features must hold."""
    captions = list(texts[:1] if section.sample == "first" else texts)
    if tags and section.tags_probability > 0:
        tagged = [with_tags(caption, tags) for caption in captions]
        return tagged if section.tags_probability >= 1 else [*captions, *tagged]
    return captions
