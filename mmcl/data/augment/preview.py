"""A page of what augmentation makes of a data set: images and captions as the first epochs would bring them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from mmcl.config import AugmentSection, CaptionsSection, Section
from mmcl.data.augment.captions import CaptionSampler
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.multi_crop import ImageViews
from mmcl.data.augment.seeds import row_seeds
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError, DataError
from mmcl.pages.page import Item, Page

_LONGEST_CAPTION = 300  # letters shown of one


@dataclass(frozen=True)
class SquareResizer:
    """A tower's preprocessing where there is no tower: the shorter side to ``size``, the middle cut out."""

    size: tuple[int, int]
    interpolation: str = "bicubic"

    def resize_pixels(self, image: Tensor) -> Tensor:
        """uint8 (3, h, w) -> uint8 (3, H, W)."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        mode = InterpolationMode(self.interpolation)
        image = functional.resize(image, [min(self.size)], interpolation=mode, antialias=True)
        return functional.center_crop(image, list(self.size))


def preview(
    dataset: ImageTextDataset,
    augment: AugmentSection,
    captions: CaptionsSection,
    *,
    rows: int = 8,
    views: int = 6,
    size: int = 224,
    seed: int = 0,
) -> Page:
    """Some rows of a data set, each with its image and caption as ``views`` epochs would bring them.

    Under the run's seed, at the tower's size and for one that resizes bicubically, these are the very views that
    training sees. Objectives that take several views of an image get more of them: where they differ, those of the
    first epoch are shown too.

    Args:
        dataset: rows are drawn from it by ``seed``, and shown in its order; one with fewer rows is shown whole.
        augment: ``data.augment`` of a recipe.
        captions: ``data.captions`` of a recipe.
        rows: shown, 1 or more.
        views: of each row, 1 or more.
        size: of the views, in pixels.
        seed: the run's.

    Raises:
        ConfigError: a number is below 1, or the sections do not fit the data; see ``CaptionSampler``.
    """
    for name, value in (("rows", rows), ("views", views), ("size", size)):
        if value < 1:
            raise ConfigError(f"{name} is {value}; want at least 1")
    resizer = SquareResizer((size, size))
    page = Page(f"Augmentation of {dataset.name}")
    page.paragraph(_described(captions, views=views, seed=seed))
    page.table(["key", "value"], _settings(augment, "data.augment.") + _settings(captions, "data.captions."))
    sampler, make = CaptionSampler(dataset, captions), ImageAugmentation(augment, resizer)
    make_all = ImageViews(augment, resizer) if _has_several_views(augment) else None
    chosen = np.sort(np.random.default_rng([seed, 3]).permutation(len(dataset))[:rows])
    for row in chosen.tolist():
        seeds = [int(row_seeds(seed, epoch, [row])[0]) for epoch in range(views)]
        _show(page, dataset, row, make, make_all, seeds=seeds, texts=sampler([row] * views, seeds))
    return page


def _show(
    page: Page,
    dataset: ImageTextDataset,
    row: int,
    make: ImageAugmentation,
    make_all: ImageViews | None,
    *,
    seeds: list[int],
    texts: list[str],
) -> None:
    page.heading(str(dataset.value("id", row) or f"row {row}"))
    own = " / ".join(dataset.texts(row))
    try:
        image = dataset.images.read(row)
    except DataError as error:
        page.paragraph(f"The image cannot be read: {error}")
        page.card(Item(_short(own)), [Item(_short(text)) for text in texts])
        return
    shown = [Item(_short(text), make(image, seed=seed)) for text, seed in zip(texts, seeds)]
    page.card(Item(_short(own), image), shown, note="as it is, and in each epoch")
    if make_all is not None:
        views = make_all(image, seeds[0])
        names = ["first view", "second view", *(f"local crop {number}" for number in range(1, len(views) - 1))]
        page.card(Item("several views"), [Item(name, view) for name, view in zip(names, views)], note="epoch 0")


def _has_several_views(augment: AugmentSection) -> bool:
    return augment.local_crops.count > 0 or augment.of_view(1) != augment


def _described(captions: CaptionsSection, *, views: int, seed: int) -> str:
    text = f"Each row under run.seed={seed}: as it is, and as epochs 0 to {views - 1} bring it to the towers."
    if captions.token_dropout:
        text += (
            f" Not shown: data.captions.token_dropout takes {captions.token_dropout:.0%} of the tokens from each "
            f"caption, once the tower's tokenizer has made them."
        )
    return text


def _settings(section: Section, prefix: str) -> list[list[str]]:
    """What a section has that is not the default: key and value."""
    rows = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            rows += _settings(value, f"{prefix}{name}.")
        elif value != field.get_default(call_default_factory=True):
            rows.append([prefix + name, str(list(value) if isinstance(value, tuple) else value)])
    return rows


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_CAPTION else text[:_LONGEST_CAPTION] + " ..."
