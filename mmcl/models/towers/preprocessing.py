"""What an image tower wants its pixels to look like, read from the tower's own config."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmcl.errors import ConfigError

# PIL's resampling numbers, as Hugging Face image processors write them.
_PIL_RESAMPLING = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TORCHVISION_INTERPOLATION = {"nearest-exact", "bilinear", "bicubic"}


@dataclass(frozen=True)
class ImagePreprocessing:
    """From a decoded image to a tower's pixels: resize, cut ``size`` out of the middle, normalize.

    Attributes:
        size: (height, width) of the tower's input.
        resize_to: a number of pixels for the shorter side, the aspect kept; or (height, width), whatever the aspect.
            None: ``size``.
        interpolation: ``"bicubic"``, ``"bilinear"`` or ``"nearest-exact"``; antialiased.
        mean, std: per channel, for pixels in [0, 1].
        crop_rounding: where the cut starts when half a pixel is left: ``"down"`` (Hugging Face), ``"even"``
            (torchvision, and with it timm and open_clip).
    """

    size: tuple[int, int]
    resize_to: int | tuple[int, int] | None = None
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    crop_rounding: Literal["down", "even"] = "down"

    def __post_init__(self) -> None:
        if self.interpolation not in _TORCHVISION_INTERPOLATION:
            # Lanczos, box and hamming exist in PIL alone; bicubic is the nearest that tensors have.
            object.__setattr__(self, "interpolation", "bicubic")
        for name in ("size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not isinstance(self.resize_to, int):
            object.__setattr__(self, "resize_to", tuple(self.resize_to or self.size))

    def resize_pixels(self, image: Tensor) -> Tensor:
        """An image uint8 (3, h, w) brought to the tower's size, uint8 (3, H, W)."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        mode = InterpolationMode(self.interpolation)
        height, width = image.shape[-2:]
        if isinstance(self.resize_to, int):
            if min(height, width) != self.resize_to:
                image = functional.resize(image, [self.resize_to], interpolation=mode, antialias=True)
        elif (height, width) != self.resize_to:
            image = functional.resize(image, list(self.resize_to), interpolation=mode, antialias=True)
        return self._center(image)

    def _center(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import functional

        spare = [have - want for have, want in zip(image.shape[-2:], self.size)]
        if min(spare) < 0:  # smaller than the cut: padded with black, as every library does
            return functional.center_crop(image, list(self.size))
        top, left = (int(s / 2) if self.crop_rounding == "down" else round(s / 2) for s in spare)
        return image[..., top : top + self.size[0], left : left + self.size[1]]

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (b, 3, H, W) to float32 pixels with the tower's mean and standard deviation."""
        scale = torch.tensor([255.0 * s for s in self.std]).view(3, 1, 1)
        shift = torch.tensor([255.0 * m for m in self.mean]).view(3, 1, 1)
        # One array, changed in place: what this costs is new memory.
        return images.to(torch.float32, copy=True).sub_(shift).div_(scale)

    def __call__(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """Decoded images, uint8 (3, h, w) each, to the tower's ``pixel_values`` (b, 3, H, W) float32."""
        return {"pixel_values": self.normalize(torch.stack([self.resize_pixels(image) for image in images]))}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def with_size(self, size: int) -> ImagePreprocessing:
        """The same for inputs of ``size`` × ``size`` pixels, the crop kept in proportion."""
        if isinstance(self.resize_to, int):
            resize_to: Any = round(self.resize_to * size / min(self.size))
        else:
            resize_to = tuple(round(to * size / own) for to, own in zip(self.resize_to, self.size))
        return dataclasses.replace(self, size=(size, size), resize_to=resize_to)

    def with_resize(self, resize: Literal["squash", "crop"]) -> ImagePreprocessing:
        """The same with another way to bring an image to ``size``; a crop then cuts from the shorter side as it is."""
        return dataclasses.replace(self, resize_to=min(self.size) if resize == "crop" else None)

    @classmethod
    def from_image_processor(cls, config: dict[str, Any], *, source: str) -> ImagePreprocessing:
        """Read a Hugging Face ``preprocessor_config.json``.

        Raises:
            ConfigError: it says no size, or something mmcl does not do.
        """
        kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
        if config.get("do_flip_channel_order"):
            raise ConfigError(f"{source}: its image processor ({kind}) wants blue before red, which mmcl does not do")
        values = {"interpolation": _PIL_RESAMPLING.get(config.get("resample", 3), "bicubic"), **_levels(config)}
        cut = _pair(config.get("crop_size"), "shortest_edge") if config.get("do_center_crop") else None
        size = config.get("size") if config.get("do_resize", True) else None
        if isinstance(size, int):
            size = {"shortest_edge": size} if cut or kind.startswith("ConvNext") else {"height": size, "width": size}
        if size and "height" in size and "width" in size:
            resize_to = (size["height"], size["width"])
            return cls(cut or resize_to, resize_to, **values)
        if size and set(size) == {"shortest_edge"}:
            edge = size["shortest_edge"]
            if kind.startswith("ConvNext"):  # resizes larger and cuts, but squashes from 384 pixels on
                share = config.get("crop_pct") or 224 / 256
                return cls((edge, edge), int(edge / share) if edge < 384 else None, **values)
            if cut:
                return cls(cut, int(256 / 224 * edge) if kind.startswith("Levit") else edge, **values)
        raise ConfigError(
            f"{source}: its image processor's size {config.get('size')!r} gives inputs of no fixed size; "
            f"mmcl reads {{height, width}}, or {{shortest_edge}} with a centre crop"
        )

    def image_processor_config(self) -> dict[str, Any]:
        """The same as a Hugging Face ``preprocessor_config.json`` that plain transformers reads."""
        if isinstance(self.resize_to, int):
            size = {"shortest_edge": self.resize_to}
        else:
            size = {"height": self.resize_to[0], "width": self.resize_to[1]}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": size,
            "resample": {name: number for number, name in _PIL_RESAMPLING.items()}[self.interpolation],
            "do_center_crop": self.resize_to != self.size,
            "crop_size": {"height": self.size[0], "width": self.size[1]},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def _pair(size: Any, square: str) -> tuple[int, int] | None:
    """A crop size as (height, width), however it is written."""
    if isinstance(size, int):
        return (size, size)
    if size and square in size:
        return (size[square], size[square])
    return (size["height"], size["width"]) if size else None


def _levels(config: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Mean and standard deviation for pixels in [0, 1], whatever the processor scales pixels to first."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    offset = 1.0 if config.get("rescale_offset") else 0.0  # EfficientNet's and ALIGN's processors take 1 off
    normalizes = config.get("do_normalize", True)
    own_std = config.get("image_std") or (1.0, 1.0, 1.0)
    mean = (normalizes and config.get("image_mean")) or (0.0, 0.0, 0.0)
    std = own_std if normalizes else (1.0, 1.0, 1.0)
    if str(config.get("image_processor_type", "")).startswith("EfficientNet") and config.get("include_top", True):
        std = tuple(s * again for s, again in zip(std, own_std))  # its processor divides twice
    # 255 * (1 / 255) is exactly 1, so that the usual processors keep their numbers to the last bit.
    scale = 255 * factor
    return {"mean": tuple((m + offset) / scale for m in mean), "std": tuple(s / scale for s in std)}
