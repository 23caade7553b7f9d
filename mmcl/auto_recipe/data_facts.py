"""What the data are, as far as the choice of a recipe asks: counts, captions, classes, image sizes, splits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.scan.images import scan_images
from mmcl.data.shapes.dataset import DEFAULT_SIZES
from mmcl.data.sources.built_in import is_built_in
from mmcl.data.sources.loading import load_split, open_data, parse_reference
from mmcl.data.sources.opened import OpenedData
from mmcl.data.sources.options import split_options
from mmcl.data.splits.names import canonical_splits
from mmcl.data.splits.splitting import captions_are_classes
from mmcl.data.summary import summarise
from mmcl.data.vectors import VectorImages
from mmcl.errors import DataError

Progress = Callable[[str, int, int], None]

ROWS_LOOKED_AT = 20_000  # of larger data a sample is summed up
SCENES_LOOKED_AT = 2_000  # of the built-in data, which are drawn first
IMAGES_LOOKED_AT = 200
GROUPS_TO_HOLD_OUT = 15  # of fewer, those held out are too few to judge anything by


@dataclass(frozen=True)
class DataFacts:
    """The training split in the figures that settings depend on.

    Attributes:
        name: DATA as the recipe says it.
        rows: training images, at most ``data.max_rows``.
        looked_at: rows that the figures below were measured on.
        groups: different groups among them.
        images_per_group: mean rows of a group among them.
        captions_per_row: mean.
        repeated: share of rows with a caption that also stands in other groups.
        copies: share of images that are copies of another, of those looked at.
        words: median words of a caption; ``words_p95``: 95 % have no more.
        distinct_words: different words in the captions looked at; ``word_uses``: how often the median word stands.
        languages: likely codes; empty where nobody could tell.
        tags: share of rows with tags; ``new_tags``: share of tags whose words the row's captions lack.
        classes: different labels; 0: no labels. ``largest_class``: its share.
        domains: different domains; 0: none.
        foils: whether rows have foils.
        shorter_side: median pixels; 0 where no image could be looked at.
        square: whether nine of ten images lie between 2:3 and 3:2, so that squashing them shows all and bends little.
        validation, test: whether such splits are there.
        class_names: whether captions are the names of classes, of which each lends images where some are held out.
    """

    name: str
    rows: int
    looked_at: int
    groups: int
    images_per_group: float
    captions_per_row: float
    repeated: float
    copies: float
    words: float
    words_p95: float
    distinct_words: int
    word_uses: float
    languages: tuple[str, ...]
    tags: float
    new_tags: float
    classes: int
    largest_class: float
    domains: int
    foils: bool
    shorter_side: float
    square: bool
    validation: bool
    test: bool
    class_names: bool = False

    @property
    def can_hold_out(self) -> bool:
        """Whether part of the training rows can judge the rest."""
        return self.groups >= GROUPS_TO_HOLD_OUT or (self.class_names and self.groups > 1)

    @property
    def by_class(self) -> bool:
        """Whether captions name classes with many images each, so that retrieval is classification."""
        return self.images_per_group >= 20

    @property
    def closed_vocabulary(self) -> bool:
        """Whether captions are made of few words that each stand often: words that can be learnt from nothing."""
        return self.word_uses * self.rows / max(1, self.looked_at) >= 500 and self.distinct_words <= 500


def open_training_rows(recipe: Recipe, *, progress: Progress | None = None) -> tuple[ImageTextDataset, int, list[str]]:
    """The training split, in part where it is drawn by code; how many rows it has in all; and the splits there are.

    Raises:
        DataError, ConfigError: there are no such data, or no such split.
    """
    section = recipe.data
    base, (path, options) = parse_reference(section.path).base, split_options(parse_reference(section.path).base)
    columns = section.columns.model_dump(exclude_none=True)
    drawn = is_built_in(path) and section.split.train in DEFAULT_SIZES
    total = None
    if drawn:
        total = int(options.get(section.split.train, DEFAULT_SIZES[section.split.train]))
        kept = {**options, section.split.train: str(min(total, SCENES_LOOKED_AT))}
        base = f"{path}?" + "&".join(f"{key}={value}" for key, value in kept.items())
    opened: OpenedData = open_data(base, columns=columns, images=section.images, progress=progress)
    there = canonical_splits(opened.splits())
    dataset = load_split(opened, base if drawn else section.path, section.split.train if there else None)
    if isinstance(dataset.images, VectorImages):
        raise DataError(f"{section.path}: recipe: auto trains on images and captions; these data are embeddings")
    number = len(dataset) if total is None else total
    return dataset, number if section.max_rows is None else min(number, section.max_rows), there


def read_data_facts(
    dataset: ImageTextDataset, *, rows: int, splits: list[str], recipe: Recipe, seed: int = 0
) -> DataFacts:
    """Sum up the training rows; of large data a sample, so that it takes seconds.

    Args:
        dataset: the training split, or the part of it that was drawn.
        rows: training images in all.
        splits: those the data have.
        recipe: names the validation and test split.
        seed: of the samples.
    """
    sample = dataset.select(_lot(len(dataset), ROWS_LOOKED_AT, seed))
    looked_at = sample.select(_lot(len(sample), IMAGES_LOOKED_AT, seed + 1))
    summary = summarise(sample, scan_images(looked_at), seed=seed)
    images, labels = summary.images, summary.labels
    words = _word_counts(sample)
    sized = images is not None and images.aspect.count > 0
    # The part that was looked at thins groups out; of the whole at least the column counts right.
    whole = len(np.unique(dataset.group_ids().numpy()))
    return DataFacts(
        name=recipe.data.path,
        rows=rows,
        looked_at=len(sample),
        groups=whole,
        images_per_group=len(dataset) / max(1, whole),
        captions_per_row=summary.captions.per_row.mean,
        repeated=summary.repeats.share,
        copies=images.repeated / images.looked_at if images is not None and images.looked_at else 0.0,
        words=summary.captions.words.median,
        words_p95=summary.captions.words.p95,
        distinct_words=len(words),
        word_uses=float(np.median([*words.values()])) if words else 0.0,
        languages=tuple(summary.languages.likely()),
        tags=_filled_tags(sample),
        new_tags=_new_tags(sample),
        classes=0 if labels is None else labels.distinct,
        largest_class=0.0 if labels is None else labels.largest_share,
        domains=0 if summary.domains is None else summary.domains.distinct,
        foils=sample.has("foils"),
        shorter_side=images.shorter_side.median if sized else 0.0,
        square=sized and images.aspect.p5 >= 2 / 3 and images.aspect.p95 <= 1.5,
        validation=recipe.data.split.validation in splits,
        test=recipe.data.split.test in splits,
        class_names=captions_are_classes(dataset),
    )


def _lot(number: int, size: int, seed: int) -> np.ndarray:
    if number <= size:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).choice(number, size=size, replace=False))


def _word_counts(dataset: ImageTextDataset) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for texts in dataset.table["texts"].to_pylist():
        for text in texts:
            counts.update(re.findall(r"\w+", text.lower()))
    return counts


def _filled_tags(dataset: ImageTextDataset) -> float:
    return float(np.mean([bool(tags) for tags in dataset.column("tags")])) if dataset.has("tags") else 0.0


def _new_tags(dataset: ImageTextDataset) -> float:
    """The share of tags with a word that no caption of the row has: the others add nothing to it."""
    if not dataset.has("tags"):
        return 0.0
    new = []
    for tags, texts in zip(dataset.column("tags"), dataset.column("texts")):
        said = set(re.findall(r"\w+", " ".join(texts).lower()))
        new += [bool(set(re.findall(r"\w+", tag.lower())) - said) for tag in tags or ()]
    return float(np.mean(new)) if new else 0.0
