"""Which hard captions and hard images the rows of a batch bring along, and what each of them truly belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.config import NegativesSection
from mmcl.data.augment.seeds import row_seeds
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError, DataError

_CAPTIONS, _IMAGES = 3, 4  # what seeds are mixed with, so that no two choices of a row hang together


class Lists:
    """A column of lists of different lengths, as flat values and where each row's begin.

    Args:
        column: lists; a null is an empty list.
    """

    def __init__(self, column: pa.ChunkedArray | pa.Array) -> None:
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        self.values = pc.list_flatten(column)
        self.starts = np.concatenate([[0], np.cumsum(lengths)])

    def owners(self) -> np.ndarray:
        """(v,) int64: the row of each value."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def draw(self, rows: Sequence[int], count: int, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """At most ``count`` different values of each row, by lot.

        Args:
            rows: (b,) row numbers.
            count: rows with fewer values give all of them.
            seeds: (b,) int64; a row's seed alone decides.

        Returns:
            (k,) positions in ``values``, and (k,) int64, ascending: which of ``rows`` each was drawn for.
        """
        index = np.asarray(rows, dtype=np.int64)
        lengths = self.starts[index + 1] - self.starts[index]
        widest = int(lengths.max(initial=0))
        lots = row_seeds(0, 0, np.asarray(seeds, dtype=np.uint64)[:, None] + np.arange(widest, dtype=np.uint64))
        lots[np.arange(widest) >= lengths[:, None]] = np.iinfo(np.int64).max  # beyond the end of a row's list
        picked = np.argsort(lots, axis=1, kind="stable")[:, :count]  # (b, count)
        owners, order = np.nonzero(np.arange(picked.shape[1]) < lengths[:, None])
        return self.starts[index[owners]] + picked[owners, order], owners


class DrawnCaptions(NamedTuple):
    """Hard captions of a batch: the texts, the position of each one's row in the batch, and its true group or -1."""

    texts: list[str]
    owners: np.ndarray
    group_ids: np.ndarray


class DrawnImages(NamedTuple):
    """Hard images of a batch: their rows, the position in the batch of the row each is for, and a seed for each."""

    rows: list[int]
    owners: np.ndarray
    seeds: list[int]


class HardNegativeChoice:
    """Draws the hard captions and images of a batch from its rows' seeds.

    Args:
        dataset: with a column ``negatives`` for captions, ``negative_rows`` for images.
        section: how many of each a row brings.

    Raises:
        ConfigError: the recipe asks for what the data do not have.
        DataError: ``negative_rows`` names a row that the data set does not have.
    """

    def __init__(self, dataset: ImageTextDataset, section: NegativesSection) -> None:
        self.section = section
        self._captions = self._images = None
        if section.captions_per_row > 0:
            self._captions = _column(dataset, "negatives", "captions_per_row")
            self._groups = true_groups(Lists(dataset.table["texts"]), self._captions, dataset.group_ids().numpy())
        if section.images_per_row > 0:
            self._images = _column(dataset, "negative_rows", "images_per_row")
            _check_rows(dataset, self._images)

    def possible_captions(self) -> list[str]:
        """Every hard caption that a step may bring: what a cache of text features must hold."""
        return [] if self._captions is None else self._captions.values.unique().to_pylist()

    def captions(self, rows: Sequence[int], seeds: Sequence[int]) -> DrawnCaptions | None:
        """Those of these rows under their seeds; None where they have none."""
        if self._captions is None:
            return None
        mixed = row_seeds(0, _CAPTIONS, seeds)
        places, owners = self._captions.draw(rows, self.section.captions_per_row, mixed)
        if not len(places):
            return None
        return DrawnCaptions(self._captions.values.take(pa.array(places)).to_pylist(), owners, self._groups[places])

    def images(self, rows: Sequence[int], seeds: Sequence[int]) -> DrawnImages | None:
        """Those of these rows under their seeds; None where they have none."""
        if self._images is None:
            return None
        mixed = row_seeds(0, _IMAGES, seeds)
        places, owners = self._images.draw(rows, self.section.images_per_row, mixed)
        if not len(places):
            return None
        chosen = self._images.values.take(pa.array(places)).to_numpy(zero_copy_only=False)
        # A view of its own for every row that an image stands against.
        own = row_seeds(0, 0, mixed[owners].astype(np.uint64) + chosen.astype(np.uint64))
        return DrawnImages(chosen.tolist(), owners, own.tolist())


def true_groups(texts: Lists, negatives: Lists, group_ids: np.ndarray) -> np.ndarray:
    """(v,) int64: the group that each hard caption truly describes, -1 where no row of the data has this very caption.

    A caption of several groups counts as its own row's where that is one of them, else as the first one's.

    Args:
        texts: the true captions.
        negatives: the hard captions, of the same rows.
        group_ids: (n,) int64, >= 0, of the rows.
    """
    encoded = texts.values.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    groups = group_ids[texts.owners()]
    found = pc.index_in(negatives.values, value_set=encoded.dictionary)
    found = pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    first = np.empty(len(encoded.dictionary), dtype=np.int64)
    first[codes[::-1]] = groups[::-1]  # the first of each code is written last
    span = int(group_ids.max(initial=0)) + 1
    own = group_ids[negatives.owners()]
    is_own = np.isin(found * span + own, np.unique(codes * span + groups)) & (found >= 0)
    return np.where(found < 0, -1, np.where(is_own, own, first[found]))


def _column(dataset: ImageTextDataset, name: str, key: str) -> Lists:
    if not dataset.has(name):
        own = "name yours with data.columns.negatives, or " if name == "negatives" else ""
        there = ", ".join(dataset.table.column_names)
        raise ConfigError(
            f"negatives.{key} is above 0, but {dataset.name} has no column {name!r} (it has {there}); {own}mine a file "
            f"of them (mmcl data mine) and give it as data.negatives"
        )
    return Lists(dataset.table[name])


def _check_rows(dataset: ImageTextDataset, lists: Lists) -> None:
    rows = lists.values.to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~((rows >= 0) & (rows < len(dataset))))
    if len(wrong):
        raise DataError(
            f"{dataset.name}: negative_rows of row {lists.owners()[wrong[0]]} names row {rows[wrong[0]]}; the data set "
            f"has rows 0 to {len(dataset) - 1}; mine it again"
        )
