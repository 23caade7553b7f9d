"""Random changes to training images, each drawn from the row's own seed."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mmcl.config import AugmentSection
from mmcl.data.augment.crop import CropBox, RandomCrop
from mmcl.data.augment.seeds import PIXELS, row_seed, seeded
from mmcl.errors import ConfigError


class Resizer(Protocol):
    """What augmentation needs of a tower's image preprocessing."""

    size: tuple[int, int]
    interpolation: str

    def resize_pixels(self, image: Tensor) -> Tensor: ...


class LargestCrop:
    """Crops of one shape, as large as an image allows, anywhere in it: CLIP's random square crop.

    Args:
        size: (height, width) whose shape they have.

    Source: Radford et al., arXiv:2103.00020, section 2.4.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def draw(self, height: int, width: int, *, seed: int) -> CropBox:
        """A crop of an image of ``height`` x ``width`` pixels; the same seed gives the same one."""
        generator = torch.Generator().manual_seed(seed)
        share = min(height / self.size[0], width / self.size[1])
        high, wide = (max(1, min(have, round(share * want))) for have, want in zip((height, width), self.size))
        top = int(torch.randint(0, height - high + 1, (1,), generator=generator))
        left = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
        return CropBox(top, left, high, wide)


class ImageAugmentation:
    """Crop, flip, RandAugment, colour jitter, grey, blur, erase and more (torchvision v2), on uint8 images.

    The crop is drawn first, from the image's size and the seed alone, so that a reader may decode no more than it
    needs: ``after_crop(crop and resize, seed)`` is what a call does. Everything else is done at the tower's size.

    Args:
        section: which, and how strongly.
        resizer: the tower's preprocessing: the size and interpolation that crops are brought to.
        size: (height, width) of the views; default the tower's.

    Raises:
        ConfigError: the blur's kernel is too wide for the size.

    Example:
        >>> from mmcl.config import AugmentSection
        >>> from mmcl.models.towers.preprocessing import ImagePreprocessing
        >>> augment = ImageAugmentation(AugmentSection(preset="simclr"), ImagePreprocessing((32, 32)))
        >>> augment(torch.zeros(3, 40, 50, dtype=torch.uint8), seed=7).shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, section: AugmentSection, resizer: Resizer, *, size: tuple[int, int] | None = None) -> None:
        from torchvision.transforms import v2

        self.size = tuple(size or resizer.size)
        self._mode = v2.InterpolationMode(resizer.interpolation)
        self._resize = resizer.resize_pixels
        self._crop: RandomCrop | LargestCrop | None = None
        if section.crop_scale:
            self._crop = RandomCrop(section.crop_scale, section.crop_ratio)
        elif section.largest_crop:
            self._crop = LargestCrop(self.size)
        steps = [*_geometry(section), *_colours(section, self.size)]
        if section.erase:
            steps.append(v2.RandomErasing(section.erase, section.erase_scale, section.erase_ratio))
        self._steps = v2.Compose(steps) if steps else None

    def draw_crop(self, height: int, width: int, seed: int) -> CropBox | None:
        """The part kept of an image of this size; None: there is no random crop, the tower's own resize takes it."""
        return None if self._crop is None else self._crop.draw(height, width, seed=seed)

    def after_crop(self, image: Tensor, seed: int) -> Tensor:
        """What follows the crop, on an image uint8 (3, H, W) that has the size already."""
        if self._steps is None:
            return image
        with seeded(row_seed(0, PIXELS, seed)):  # other random numbers than the crop's
            return self._steps(image)

    def __call__(self, image: Tensor, *, seed: int, crop: CropBox | None = None) -> Tensor:
        """uint8 (3, h, w) -> uint8 (3, H, W) of the tower's size; the same seed gives the same view.

        Args:
            image: any size.
            seed: of this view.
            crop: the part of this image to keep; default the one drawn from the seed.
        """
        from torchvision.transforms.v2 import functional

        crop = crop or self.draw_crop(image.shape[-2], image.shape[-1], seed)
        if crop is None:
            return self.after_crop(self._resize(image), seed)
        image = functional.resized_crop(image, *crop, list(self.size), interpolation=self._mode, antialias=True)
        return self.after_crop(image, seed)


def _geometry(section: AugmentSection) -> list[torch.nn.Module]:
    """Flips, rotation, and the policies that mix geometry with colour."""
    from torchvision.transforms import v2

    steps: list[torch.nn.Module] = []
    if section.flip:
        steps.append(v2.RandomHorizontalFlip(section.flip))
    if section.vertical_flip:
        steps.append(v2.RandomVerticalFlip(section.vertical_flip))
    if section.rotation:
        steps.append(v2.RandomRotation(section.rotation, v2.InterpolationMode.BILINEAR))
    policy = section.randaugment
    if policy.num_ops:
        steps.append(v2.RandomApply([v2.RandAugment(policy.num_ops, policy.magnitude)], policy.probability))
    if section.trivial_augment:
        steps.append(v2.RandomApply([v2.TrivialAugmentWide()], section.trivial_augment))
    return steps


def _colours(section: AugmentSection, size: tuple[int, int]) -> list[torch.nn.Module]:
    """What changes pixels where they are."""
    from torchvision.transforms import v2

    steps: list[torch.nn.Module] = []
    if section.color_jitter:
        brightness, contrast, saturation, hue = (section.color_jitter * part for part in section.color_jitter_parts)
        jitter = v2.ColorJitter(brightness, contrast, saturation, hue)
        steps.append(v2.RandomApply([jitter], section.color_jitter_probability))
    if section.grayscale:
        steps.append(v2.RandomGrayscale(section.grayscale))
    if section.blur:
        from mmcl.data.augment.blur import SeparableBlur

        blur = SeparableBlur(_blur_kernel(section, size), section.blur_sigma)
        steps.append(v2.RandomApply([blur], section.blur))
    if section.solarize:
        steps.append(v2.RandomSolarize(section.solarize_threshold, section.solarize))
    if section.equalize:
        steps.append(v2.RandomEqualize(section.equalize))
    if section.posterize:
        steps.append(v2.RandomPosterize(section.posterize_bits, section.posterize))
    return steps


def _blur_kernel(section: AugmentSection, size: tuple[int, int]) -> int:
    kernel = section.blur_kernel or max(3, int(0.1 * min(size)) // 2 * 2 + 1)  # SimCLR: a tenth of the image, odd
    if kernel // 2 >= min(size):
        raise ConfigError(
            f"data.augment.blur_kernel is {kernel}, too wide for views of {size[0]} x {size[1]} pixels; "
            f"want less than {2 * min(size)}, or null"
        )
    return kernel
