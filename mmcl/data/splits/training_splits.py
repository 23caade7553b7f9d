"""The splits of a run: what is trained on, what judges on the way, and what judges at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.mined import join_mined
from mmcl.data.sources.loading import load_split, open_data, parse_reference
from mmcl.data.splits.leaks import count_leaks
from mmcl.data.splits.names import canonical_splits
from mmcl.data.splits.splitting import LARGEST_UNIT, caption_tie, captions_are_classes, find_units, warn_of_large_units
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True)
class Splits:
    """The data of a run: what it learns from, what it is judged by on the way, and at the end."""

    train: ImageTextDataset
    validation: ImageTextDataset | None
    test: dict[str, ImageTextDataset] = field(default_factory=dict)


def _hold_out(dataset: ImageTextDataset, share: float, seed: int) -> tuple[ImageTextDataset, ImageTextDataset]:
    """Whole groups for validation, with all that share a caption or an image file with them; the rest for training.

    Where captions are the names of classes, images of each class: a class that is held out would never be learnt.
    """
    if captions_are_classes(dataset):
        inside = _of_each_class(dataset, share, seed)
    else:
        units = find_units(dataset)
        sizes = units.sizes()
        number = len(sizes)
        if number < 3:
            raise DataError(
                f"{dataset.name}: {number} group(s) are too few to hold some out; set data.split.validation=null"
            )
        warn_of_large_units(dataset, units)
        order = np.random.default_rng([seed, 1]).permutation(number)
        # A caption that half of the rows have would take them all along.
        small = order[sizes[order] <= max(1, LARGEST_UNIT * len(dataset))]
        held = (small if len(small) else order)[: max(1, round(share * number))]
        inside = np.isin(units.of_row, held)
    name = dataset.name
    validation = dataset.select(np.flatnonzero(inside), name=f"{name}:held out")
    return dataset.select(np.flatnonzero(~inside), name=f"{name}:rest"), validation


def _of_each_class(dataset: ImageTextDataset, share: float, seed: int) -> np.ndarray:
    """(n,) bool: the rows held out, a share of each class's; rows of one image file stay together."""
    tie = caption_tie(dataset)
    caption = tie.codes[np.unique(tie.rows, return_index=True)[1]]  # of each row the first
    units = find_units(dataset, captions=False).of_row
    classes = caption[np.unique(units, return_index=True)[1]]
    drawn = np.random.default_rng([seed, 1]).permutation(len(classes))
    order = np.lexsort((drawn, classes))
    sizes = np.bincount(classes)
    starts = np.cumsum(sizes) - sizes
    most = np.where(sizes > 1, np.maximum(1, np.round(share * sizes)), 0)
    held = order[np.arange(len(order)) - starts[classes[order]] < most[classes[order]]]
    return np.isin(units, held)


def _warn_of_leaks(splits: Splits) -> None:
    if captions_are_classes(splits.train):
        return  # the name of a class is no leak
    judged = [*([splits.validation] if splits.validation is not None else []), *splits.test.values()]
    told = []
    for dataset in judged:
        counts = count_leaks(splits.train, dataset)
        if counts["either"]:
            share = 100 * counts["either"] / len(dataset)
            told.append(
                f"{counts['either']} of {len(dataset)} rows of {dataset.name} ({share:.1f} %; by caption "
                f"{counts['captions']}, by group {counts['groups']})"
            )
    if told:
        log.warning("captions or groups of the training split are judged on too: %s", "; ".join(told))


def _sample(dataset: ImageTextDataset, most: int | None, seed: int) -> ImageTextDataset:
    """At most so many rows, drawn by lot, in the data set's order."""
    if most is None or len(dataset) <= most:
        return dataset
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(dataset))[:most])
    return dataset.select(rows, name=f"{dataset.name} ({most} of {len(dataset)} rows)")


def load_splits(recipe: Recipe, *, progress: Callable[[str, int, int], None] | None = None) -> Splits:
    """Load the splits that a recipe names.

    Mined negatives (``data.negatives``) join the training split. Data without a validation split lend
    ``data.holdout_share`` of their training groups, with the rows that share a caption with them; without a test split
    there is no final judgement on one. Both are logged, and so are captions and groups that are judged on and trained
    on.

    Raises:
        DataError: no such data, or no training split; or negatives that were mined for other rows.
    """
    section = recipe.data
    columns = section.columns.model_dump(exclude_none=True)
    base = parse_reference(section.path).base
    opened = open_data(base, columns=columns, images=section.images, progress=progress)

    def read(split: str | None, *, negatives: str | None = None) -> ImageTextDataset:
        dataset = load_split(opened, section.path, split)
        if negatives is not None:
            dataset = join_mined(dataset, negatives)  # before rows are drawn: they were mined for all of them
        return _sample(dataset, section.max_rows, recipe.run.seed)

    steps = recipe.negatives
    if section.negatives is not None and not steps.captions_per_row + steps.images_per_row:
        log.warning(
            "data.negatives is given, but no step takes any of them: negatives.captions_per_row and "
            "negatives.images_per_row are 0"
        )
    there = canonical_splits(opened.splits())
    train = read(section.split.train if there else None, negatives=section.negatives)
    wanted, validation = section.split.validation, None
    if wanted is not None and wanted in there:
        validation = read(wanted)
    elif wanted is not None:
        if wanted != "validation":
            raise DataError(
                f"{section.path} has no split {wanted!r} (data.split.validation); it has {', '.join(there)}"
            )
        train, validation = _hold_out(train, section.holdout_share, recipe.run.seed)
        log.warning(
            "%s has no validation split: %d rows of the training split are held out", train.name, len(validation)
        )
    names = [] if not recipe.evaluate.at_end else [section.split.test, *recipe.evaluate.extra_splits]
    test = {name: read(name) for name in names if name is not None and name in there}
    for name in names:
        if name is not None and name not in there:
            log.warning("%s has no split %r: it is not judged at the end", section.path, name)
    if validation is not None:
        validation = _sample(validation, recipe.evaluate.max_rows, recipe.run.seed)
    splits = Splits(train, validation, test)
    _warn_of_leaks(splits)
    return splits
