"""What a tower wants its inputs to look like, read from the tower's own config: pixels and tokens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmcl.errors import ConfigError

# PIL's resampling numbers, as Hugging Face image processors write them.
_PIL_RESAMPLING = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TORCHVISION_INTERPOLATION = {"nearest-exact", "bilinear", "bicubic"}


@dataclass(frozen=True)
class ImagePreprocessing:
    """From a decoded image to a tower's pixels.

    Attributes:
        size: (height, width) of the tower's input.
        resize: ``"squash"`` resizes to ``size`` whatever the aspect; ``"crop"`` resizes the shorter side to
            ``shortest_edge`` and cuts ``size`` out of the middle.
        shortest_edge: see ``resize``.
        interpolation: ``"bicubic"``, ``"bilinear"`` or ``"nearest-exact"``; antialiased.
        mean, std: per channel, for pixels in [0, 1].
    """

    size: tuple[int, int]
    resize: Literal["squash", "crop"] = "squash"
    shortest_edge: int | None = None
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.interpolation not in _TORCHVISION_INTERPOLATION:
            # Lanczos, box and hamming exist in PIL alone; bicubic is the nearest that tensors have.
            object.__setattr__(self, "interpolation", "bicubic")
        for name in ("size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def resize_pixels(self, image: Tensor) -> Tensor:
        """An image uint8 (3, h, w) brought to the tower's size, uint8 (3, H, W)."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        mode = InterpolationMode(self.interpolation)
        if self.resize == "crop" and self.shortest_edge is not None:
            if min(image.shape[-2:]) != self.shortest_edge:
                image = functional.resize(image, [self.shortest_edge], interpolation=mode, antialias=True)
            return functional.center_crop(image, list(self.size))
        if tuple(image.shape[-2:]) != self.size:
            image = functional.resize(image, list(self.size), interpolation=mode, antialias=True)
        return image

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (b, 3, H, W) to float32 pixels with the tower's mean and standard deviation."""
        scale = torch.tensor([255.0 * s for s in self.std]).view(3, 1, 1)
        shift = torch.tensor([255.0 * m for m in self.mean]).view(3, 1, 1)
        return (images.to(torch.float32) - shift) / scale

    def __call__(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """Decoded images, uint8 (3, h, w) each, to the tower's ``pixel_values`` (b, 3, H, W) float32."""
        return {"pixel_values": self.normalize(torch.stack([self.resize_pixels(image) for image in images]))}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def with_size(self, size: int) -> ImagePreprocessing:
        """The same for inputs of ``size`` × ``size`` pixels, the crop kept in proportion."""
        edge = self.shortest_edge and round(self.shortest_edge * size / min(self.size))
        return dataclasses.replace(self, size=(size, size), shortest_edge=edge)

    def with_resize(self, resize: Literal["squash", "crop"]) -> ImagePreprocessing:
        """The same with another way to bring an image to ``size``; a crop then cuts from the shorter side as it is."""
        return dataclasses.replace(self, resize=resize, shortest_edge=min(self.size) if resize == "crop" else None)

    @classmethod
    def from_image_processor(cls, config: dict[str, Any], *, source: str) -> ImagePreprocessing:
        """Read a Hugging Face ``preprocessor_config.json``.

        Raises:
            ConfigError: it says no size.
        """
        size, crop = config.get("size"), config.get("crop_size")
        if isinstance(size, int):
            size = {"shortest_edge": size} if config.get("do_center_crop") else {"height": size, "width": size}
        crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
        common = {
            "interpolation": _PIL_RESAMPLING.get(config.get("resample", 3), "bicubic"),
            "mean": config.get("image_mean") or (0.0, 0.0, 0.0),
            "std": config.get("image_std") or (1.0, 1.0, 1.0),
        }
        if not config.get("do_normalize", True):
            common |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        if size and "height" in size and "width" in size:
            return cls((size["height"], size["width"]), "squash", None, **common)
        if size and "shortest_edge" in size:
            edge = size["shortest_edge"]
            if config.get("do_center_crop") and crop:
                return cls((crop["height"], crop["width"]), "crop", edge, **common)
            if config.get("crop_pct") and edge < 384:  # ConvNeXt's processor: resize larger, then crop
                return cls((edge, edge), "crop", int(edge / config["crop_pct"]), **common)
            return cls((edge, edge), "squash", None, **common)
        raise ConfigError(f"{source}: preprocessor_config.json has no usable size ({size!r}); set model.image.image_size")

    def image_processor_config(self) -> dict[str, Any]:
        """The same as a Hugging Face ``preprocessor_config.json`` that plain transformers reads."""
        crop = self.resize == "crop" and self.shortest_edge is not None
        size = {"shortest_edge": self.shortest_edge} if crop else {"height": self.size[0], "width": self.size[1]}
        return {
            "image_processor_type": "CLIPImageProcessor" if crop else "ViTImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": size,
            "resample": {name: number for number, name in _PIL_RESAMPLING.items()}[self.interpolation],
            "do_center_crop": crop,
            **({"crop_size": {"height": self.size[0], "width": self.size[1]}} if crop else {}),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


class TextPreprocessing:
    """From captions to a tower's tokens, padded to the longest of the batch, never further than the tower needs.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_length: tokens kept; longer captions are cut.
        padding: ``"longest"``, or ``"max_length"`` for towers that read a fixed number of tokens without a mask (SigLIP).
        use_mask: whether the tower takes an attention mask.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        padding: Literal["longest", "max_length"] = "longest",
        use_mask: bool = True,
    ) -> None:
        self.tokenizer, self.max_length, self.padding, self.use_mask = tokenizer, max_length, padding, use_mask
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise ConfigError("the tokenizer has neither a padding nor an end token; batches cannot be padded")
            tokenizer.pad_token = tokenizer.eos_token

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions to ``input_ids`` and ``attention_mask``, int64 (b, t)."""
        encoded = self.tokenizer(
            list(texts),
            padding=self.padding,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_token_type_ids=False,
            return_tensors="pt",
        )
        return {
            "input_ids": encoded["input_ids"],
            **({"attention_mask": encoded["attention_mask"]} if self.use_mask else {}),
        }

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption, for sorting by length."""
        encoded = self.tokenizer(list(texts), truncation=True, max_length=self.max_length, padding=False)
        return [len(ids) for ids in encoded["input_ids"]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; the tokenizer itself is saved beside it."""
        return {"max_length": self.max_length, "padding": self.padding, "use_mask": self.use_mask}

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(str(folder))

    def fingerprint(self) -> str:
        """A string that changes when the tokens of a caption would."""
        return json.dumps([self.to_dict(), self.tokenizer.get_vocab()], sort_keys=True)


class OpenClipText:
    """open_clip's own tokenizers: causal towers read up to the end token, so the padding behind it is cut off.

    The result is exact: under a causal mask no token sees those after it (measured in ``tests/models``).
    """

    def __init__(self, arch: str, *, max_length: int | None = None) -> None:
        import open_clip

        self.arch = arch
        self.tokenizer = open_clip.get_tokenizer(arch)
        self.max_length = max_length or self.tokenizer.context_length
        # Only the plain CLIP tokenizer pads with zeros behind its end token; others (SigLIP's) need their full length.
        self.trim = isinstance(self.tokenizer, open_clip.SimpleTokenizer)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions to ``input_ids`` int64 (b, t)."""
        ids = self.tokenizer(list(texts), context_length=self.max_length)
        if self.trim and len(ids):
            ids = ids[:, : int((ids != 0).sum(1).max())]
        return {"input_ids": ids}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each caption, for sorting by length."""
        return (self.tokenizer(list(texts), context_length=self.max_length) != 0).sum(1).tolist() if texts else []

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"arch": self.arch, "max_length": self.max_length}

    def save(self, folder: Path) -> None:
        """open_clip carries its vocabulary itself: nothing to write."""

    def fingerprint(self) -> str:
        """A string that changes when the tokens of a caption would."""
        return json.dumps(self.to_dict(), sort_keys=True)
