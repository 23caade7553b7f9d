"""How training images and captions are varied: every key, and where a preset fills in."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mmcl.config.augment_presets import AUGMENT_PRESETS
from mmcl.config.section import Section


def _chance(description: str, default: float = 0.0) -> Any:
    return Field(default, ge=0, le=1, description=description)


class RandAugmentSection(Section):
    """RandAugment (arXiv:1909.13719), as torchvision has it."""

    num_ops: int = Field(0, ge=0, description="operations an image goes through, drawn from fourteen; 0: none")
    magnitude: int = Field(9, ge=0, le=30, description="their strength, of 30")
    probability: float = _chance("probability that an image goes through them, where num_ops is above 0", 1.0)


class SecondViewSection(Section):
    """What differs in the second of two views; for objectives that take two views of an image."""

    blur: float | None = Field(None, ge=0, le=1, description="probability of a Gaussian blur; null: the first view's")
    solarize: float | None = Field(None, ge=0, le=1, description="probability of solarising; null: the first view's")


class LocalCropsSection(Section):
    """Small crops beside the two views (multi-crop, arXiv:2006.09882); for objectives that take them."""

    count: int = Field(0, ge=0, description="local crops of an image")
    size: int | None = Field(
        None, ge=1, description="their side in pixels; null: 3/7 of the tower's size (96 of 224), in steps of 16"
    )
    scale: tuple[float, float] = Field((0.05, 0.4), strict=False, description="share of the image's area they keep")
    blur: float | None = Field(None, ge=0, le=1, description="probability of a Gaussian blur; null: the first view's")
    solarize: float | None = Field(None, ge=0, le=1, description="probability of solarising; null: the first view's")

    @field_validator("scale")
    @classmethod
    def _ascending(cls, value: tuple[float, float]) -> tuple[float, float]:
        return _range(value, "data.augment.local_crops.scale", most=1.0)


class AugmentSection(Section):
    """Random changes to training images (torchvision v2); all off by default. Captions: see ``data.captions``.

    A preset fills in what the recipe does not say. They are applied in this order: crop, flips, rotation, RandAugment
    or TrivialAugment, colour jitter, grey, blur, solarising, equalising, posterising, erasing.
    """

    preset: str | None = Field(
        None,
        description=f"values for all keys that are not given: {', '.join(AUGMENT_PRESETS)}; image-text training takes "
        "the first view of those with several (dino: a global crop)",
    )
    crop_scale: tuple[float, float] | None = Field(
        None, strict=False, description="share of the image's area a random resized crop keeps, such as [0.5, 1.0]"
    )
    crop_ratio: tuple[float, float] = Field(
        (0.75, 1.3333333), strict=False, description="narrowest and widest crop, as width / height"
    )
    largest_crop: bool = Field(
        False, description="a crop of the tower's shape, as large as fits, at a random place (arXiv:2103.00020)"
    )
    flip: float = _chance("probability of a horizontal flip")
    vertical_flip: float = _chance("probability of a vertical flip")
    rotation: float = Field(0.0, ge=0, le=180, description="most degrees an image is turned, either way; black corners")
    randaugment: RandAugmentSection = RandAugmentSection()
    trivial_augment: float = _chance("probability of TrivialAugment Wide (arXiv:2103.10158)")
    color_jitter: float = _chance("strength (SimCLR's s, arXiv:2002.05709 app. A)")
    color_jitter_parts: tuple[float, float, float, float] = Field(
        (0.8, 0.8, 0.8, 0.2), strict=False, description="brightness, contrast, saturation and hue at strength 1"
    )
    color_jitter_probability: float = _chance("probability of colour jitter, where it is on", 0.8)
    grayscale: float = _chance("probability of dropping colour")
    blur: float = _chance("probability of a Gaussian blur")
    blur_sigma: tuple[float, float] = Field(
        (0.1, 2.0), strict=False, description="weakest and strongest blur, standard deviation in pixels"
    )
    blur_kernel: int | None = Field(
        None, ge=3, description="width of the blur's kernel, odd; null: a tenth of the image (arXiv:2002.05709 app. A)"
    )
    solarize: float = _chance("probability of inverting pixels above solarize_threshold (arXiv:2006.07733)")
    solarize_threshold: int = Field(128, ge=0, le=255, description="the least pixel value that solarising inverts")
    equalize: float = _chance("probability of equalising the histogram")
    posterize: float = _chance("probability of keeping the upper posterize_bits of each pixel")
    posterize_bits: int = Field(4, ge=1, le=8, description="bits that posterising keeps")
    erase: float = _chance("probability of erasing a rectangle (arXiv:1708.04896)")
    erase_scale: tuple[float, float] = Field((0.02, 0.33), strict=False, description="share of the area erased")
    erase_ratio: tuple[float, float] = Field(
        (0.3, 3.3), strict=False, description="narrowest and widest erased rectangle, as height / width"
    )
    second_view: SecondViewSection = SecondViewSection()
    local_crops: LocalCropsSection = LocalCropsSection()

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_in(cls, tree: Any) -> Any:
        preset = tree.get("preset") if isinstance(tree, dict) else None
        if not isinstance(preset, str):
            return tree
        if preset not in AUGMENT_PRESETS:
            near = difflib.get_close_matches(preset, AUGMENT_PRESETS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"data.augment.preset is {preset!r}; known are {', '.join(AUGMENT_PRESETS)}{hint}")
        given = dict(tree)
        if given.get("crop_scale") is not None:
            given.setdefault("largest_crop", False)  # the crop that was asked for, not the preset's
        if given.get("largest_crop"):
            given.setdefault("crop_scale", None)
        return _merged(AUGMENT_PRESETS[preset], given)

    @model_validator(mode="after")
    def _values_fit(self) -> AugmentSection:
        for name, most in (("crop_scale", 1.0), ("crop_ratio", None), ("erase_scale", 1.0), ("erase_ratio", None)):
            if (value := getattr(self, name)) is not None:
                _range(value, f"data.augment.{name}", most=most)
        _range(self.blur_sigma, "data.augment.blur_sigma", most=None)
        if self.crop_scale is not None and self.largest_crop:
            raise ValueError("data.augment.crop_scale and data.augment.largest_crop exclude each other; give one")
        if self.blur_kernel is not None and self.blur_kernel % 2 == 0:
            raise ValueError(f"data.augment.blur_kernel is {self.blur_kernel}; want an odd number of pixels")
        if min(self.color_jitter_parts) < 0 or self.color_jitter_parts[3] > 0.5:
            raise ValueError(
                f"data.augment.color_jitter_parts is {list(self.color_jitter_parts)}; want four numbers of at least 0, "
                "the last (hue) at most 0.5"
            )
        return self

    @property
    def active(self) -> bool:
        """Whether any augmentation of a single view is on."""
        chances = (self.flip, self.vertical_flip, self.rotation, self.trivial_augment, self.color_jitter)
        more = (self.grayscale, self.blur, self.solarize, self.equalize, self.posterize, self.erase)
        crops = self.crop_scale is not None or self.largest_crop
        return crops or self.randaugment.num_ops > 0 or any(chance > 0 for chance in chances + more)

    def of_view(self, view: int) -> AugmentSection:
        """The section of one view: 0 and 1 are the whole image's, all later ones local crops."""
        if view == 0:
            return self
        own = self.second_view if view == 1 else self.local_crops
        changed = {name: getattr(own, name) for name in ("blur", "solarize") if getattr(own, name) is not None}
        if view > 1:
            changed |= {"crop_scale": self.local_crops.scale, "largest_crop": False}
        return self.model_copy(update=changed)


class CaptionsSection(Section):
    """Which of a row's captions a step uses, and how it is varied; ``mmcl.data.augment.captions`` has the order."""

    sample: Literal["random", "first"] = Field("random", description="which of several captions a step uses")
    translations: dict[str, float] = Field(
        default_factory=dict,
        description="column of captions in another language (a dot reaches into a struct) -> chance that it stands in, "
        "such as {i18n.de: 0.2}; a row without one keeps its own",
    )
    sentence_crop: float = _chance("chance that a caption of several sentences is cut to some (arXiv:2403.17007)")
    sentences: int = Field(1, ge=1, description="sentences that sentence_crop keeps, next to one another")
    synonyms: str | None = Field(
        None, description=".csv, .tsv or .jsonl file of words or phrases and what may stand for each"
    )
    synonyms_probability: float = _chance("chance of each word of data.captions.synonyms to be replaced", 0.1)
    word_dropout: float = _chance("chance of each word to be left out; one always stays (arXiv:1901.11196)")
    word_swap: float = _chance("chance of each word to change places with another (arXiv:1901.11196)")
    word_swap_with: Literal["any", "next"] = Field("any", description="which other word: any, or the one behind it")
    max_words: int | None = Field(None, ge=1, description="words kept, from the first; tags and templates come on top")
    templates: list[str] = Field(
        default_factory=list, description='sentences to put a caption into, such as ["a photo of {text}"]'
    )
    templates_probability: float = _chance("chance that one of the templates is used, where there are any", 1.0)
    tags_probability: float = _chance("chance that the row's tags are appended")
    tags_drop: float = _chance("chance of each tag to be left out, where tags are appended")
    tags_shuffle: bool = Field(False, description="append tags in random order")
    tags_most: int | None = Field(None, ge=1, description="most tags appended, the first ones; shuffled: any")
    lowercase: bool = Field(False, description="captions in lower case")
    token_dropout: float = _chance("chance of each token to be left out; never the special ones (arXiv:2305.07017)")
    token_dropout_by: Literal["drop", "mask"] = Field(
        "drop", description="drop: the caption gets shorter; mask: the tokenizer's mask token stands in"
    )

    @model_validator(mode="after")
    def _values_fit(self) -> CaptionsSection:
        for column, chance in self.translations.items():
            if not 0 <= chance <= 1:
                raise ValueError(f"data.captions.translations: {column} is {chance}; want a chance from 0 to 1")
        if (total := sum(self.translations.values())) > 1 + 1e-9:
            raise ValueError(f"data.captions.translations: the chances add up to {total:g}; want at most 1")
        for template in self.templates:
            if "{text}" not in template:
                raise ValueError(f"data.captions.templates: {template!r} has no {{text}}, where the caption goes")
        return self


def _range(value: tuple[float, float], key: str, *, most: float | None) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high or (most is not None and high > most):
        limit = f", at most {most:g}" if most is not None else ""
        raise ValueError(f"{key} is {list(value)}; want two numbers above 0{limit}, the smaller one first")
    return value


def _merged(preset: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was given, and what the preset says of the rest, section by section."""
    both = {key: _merged(preset[key], given[key]) for key in preset if _are_dicts(preset[key], given.get(key))}
    return {**preset, **given, **both}


def _are_dicts(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)
