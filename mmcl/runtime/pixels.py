"""From decoded images to a graph's `pixel_values`, without torch and bit for bit as with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from mmcl.errors import ConfigError
from mmcl.runtime.resampling import INTERPOLATIONS, resize


@dataclass(frozen=True)
class PixelPreprocessing:
    """Resize, cut the middle out, normalise: what ``mmcl.models.towers.preprocessing`` does with torch.

    Attributes:
        size: (height, width) of the graph's input.
        resize_to: pixels of the shorter side, the aspect kept; or (height, width), whatever the aspect.
        interpolation: one of ``resampling.INTERPOLATIONS``.
        mean, std: per channel, for pixels in [0, 1].
        crop_rounding: where the cut starts when half a pixel is left: ``"down"`` or ``"even"``.
    """

    size: tuple[int, int]
    resize_to: int | tuple[int, int]
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_rounding: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str) -> PixelPreprocessing:
        """Read what ``ImagePreprocessing.to_dict`` gives, from JSON.

        Raises:
            ConfigError: a value is missing, or none that can be.
        """
        missing = [field.name for field in fields(cls) if field.name not in values]
        if missing:
            raise ConfigError(f"{source}: its image preprocessing has no {', '.join(missing)}; export the model again")
        if values["interpolation"] not in INTERPOLATIONS or values["crop_rounding"] not in ("down", "even"):
            raise ConfigError(
                f"{source}: interpolation {values['interpolation']!r} or crop_rounding {values['crop_rounding']!r} is "
                f"unknown; export the model again, or upgrade mmcl"
            )
        to = values["resize_to"]
        return cls(
            tuple(values["size"]), to if isinstance(to, int) else tuple(to), values["interpolation"],
            tuple(values["mean"]), tuple(values["std"]), values["crop_rounding"],
        )  # fmt: skip

    def __call__(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Decoded images, uint8 (3, h, w) each, to ``pixel_values`` (b, 3, H, W) float32; b is at least 1."""
        return self.normalize(np.stack([self.resize_pixels(image) for image in images]))

    def resize_pixels(self, image: np.ndarray) -> np.ndarray:
        """uint8 (3, h, w) to uint8 (3, H, W)."""
        height, width = image.shape[1:]
        if not isinstance(self.resize_to, int):
            image = resize(image, self.resize_to, self.interpolation)
        elif min(height, width) != self.resize_to:
            longer = int(self.resize_to * max(height, width) / min(height, width))
            size = (longer, self.resize_to) if width <= height else (self.resize_to, longer)
            image = resize(image, size, self.interpolation)
        return self._center(image)

    def _center(self, image: np.ndarray) -> np.ndarray:
        spare = [have - want for have, want in zip(image.shape[1:], self.size)]
        if min(spare) < 0:  # padded with black, the odd pixel behind
            around = [(max(-s, 0) // 2, (max(-s, 0) + 1) // 2) for s in spare]
            image = np.pad(image, [(0, 0), *around])
            starts = [round(max(s, 0) / 2) for s in spare]
        else:
            starts = [int(s / 2) if self.crop_rounding == "down" else round(s / 2) for s in spare]
        top, left = starts
        return image[:, top : top + self.size[0], left : left + self.size[1]]

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """uint8 (b, 3, H, W) to float32 with the model's mean and standard deviation."""
        shift = np.array([255.0 * m for m in self.mean], dtype=np.float32)[:, None, None]
        scale = np.array([255.0 * s for s in self.std], dtype=np.float32)[:, None, None]
        pixels = images.astype(np.float32)
        pixels -= shift
        pixels /= scale
        return pixels
