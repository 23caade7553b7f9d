"""Random changes to training images and captions, each drawn from the row's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mmcl.config import AugmentSection, CaptionsSection


class Resizer(Protocol):
    """What augmentation needs of a tower's image preprocessing."""

    size: tuple[int, int]
    interpolation: str

    def resize_pixels(self, image: Tensor) -> Tensor: ...


def row_seed(seed: int, epoch: int, row: int) -> int:
    """One 63-bit seed per run, epoch and row, whichever process or worker reads it; see ``row_seeds``."""
    return int(row_seeds(seed, epoch, [row])[0])


def row_seeds(seed: int, epoch: int, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Seeds of many rows, (n,) int64 >= 0: splitmix64's finaliser over a weighted sum, modulo 2**64."""
    start = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + 1) & (2**64 - 1)
    value = np.asarray(rows, dtype=np.uint64) * np.uint64(0x94D049BB133111EB) + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return ((value ^ (value >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


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


def sample_captions(
    texts: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str] | None],
    section: CaptionsSection,
    *,
    seeds: Sequence[int] | np.ndarray,
) -> list[str]:
    """One of each row's captions, with the row's tags appended now and then.

    Args:
        texts: the rows' captions, at least one each.
        tags: their tags, or None.
        section: which caption, and how often the tags.
        seeds: (n,); the same seed gives the same caption.
    """
    picks, chances = row_seeds(0, 1, seeds).tolist(), row_seeds(0, 2, seeds).tolist()
    first, limit = section.sample == "first", section.tags_probability * 2**63
    captions = [row[0] if first else row[pick % len(row)] for row, pick in zip(texts, picks)]
    return [
        with_tags(caption, row_tags) if row_tags and chance < limit else caption
        for caption, row_tags, chance in zip(captions, tags, chances)
    ]


def possible_captions(texts: Sequence[str], tags: Sequence[str] | None, section: CaptionsSection) -> list[str]:
    """Everything ``sample_captions`` can give for a row: what a cache of text features must hold."""
    captions = list(texts[:1] if section.sample == "first" else texts)
    if tags and section.tags_probability > 0:
        tagged = [with_tags(caption, tags) for caption in captions]
        return tagged if section.tags_probability >= 1 else [*captions, *tagged]
    return captions
