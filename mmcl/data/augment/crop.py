"""Random crops: drawn from a seed of their own, before any pixel is decoded."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch


class CropBox(NamedTuple):
    """A rectangle of an image, in pixels.

    Attributes:
        top, left: of its upper left corner.
        height, width: its size, at least 1.
    """

    top: int
    left: int
    height: int
    width: int

    def on(self, full: tuple[int, int], decoded: tuple[int, int]) -> CropBox:
        """The same part of an image that was decoded at another size.

        Args:
            full: height and width that the box was drawn for.
            decoded: height and width of the image at hand.
        """
        top, bottom = (round(edge * decoded[0] / full[0]) for edge in (self.top, self.top + self.height))
        left, right = (round(edge * decoded[1] / full[1]) for edge in (self.left, self.left + self.width))
        top, left = min(top, decoded[0] - 1), min(left, decoded[1] - 1)
        return CropBox(top, left, max(1, bottom - top), max(1, right - left))


class RandomCrop:
    """The crops of ``torchvision.transforms.v2.RandomResizedCrop``, drawn without touching the global random state.

    A crop depends on the image's size and on a seed alone, so a decoder may know it before it decodes. Under one seed
    the parameters equal those that torchvision draws after ``torch.manual_seed(seed)``.

    Args:
        scale: smallest and largest share of the image's area, in (0, 1].
        ratio: narrowest and widest crop, as width / height.

    Source: Inception's crops (Szegedy et al., arXiv:1409.4842, section 6), as torchvision draws them: ten trials, then
        the largest centred crop of an allowed ratio.

    Example:
        >>> RandomCrop((0.9, 1.0)).draw(480, 640, seed=3).height <= 480
        True
    """

    TRIALS = 10

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.scale, self.ratio = tuple(scale), tuple(ratio)
        self._log_ratio = torch.log(torch.tensor(self.ratio)).tolist()  # in float32, as torchvision has it

    def draw(self, height: int, width: int, *, seed: int | torch.Generator) -> CropBox:
        """A crop of an image of ``height`` x ``width`` pixels; the same seed gives the same one.

        Args:
            height, width: of the image, at least 1.
            seed: a seed, or a generator that goes on from where it stands.
        """
        generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        drawn = torch.empty(1)
        for _ in range(self.TRIALS):
            area = height * width * drawn.uniform_(*self.scale, generator=generator).item()
            ratio = drawn.uniform_(*self._log_ratio, generator=generator).exp_().item()
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                top = int(torch.randint(0, height - high + 1, (1,), generator=generator))
                left = int(torch.randint(0, width - wide + 1, (1,), generator=generator))
                return CropBox(top, left, high, wide)
        return self._largest(height, width)

    def _largest(self, height: int, width: int) -> CropBox:
        """The centred crop that keeps most of an image whose own ratio is not allowed."""
        low, high = self.ratio
        if width / height < low:
            crop = (max(1, round(width / low)), width)
        elif width / height > high:
            crop = (height, max(1, round(height * high)))
        else:
            crop = (height, width)
        return CropBox((height - crop[0]) // 2, (width - crop[1]) // 2, *crop)
