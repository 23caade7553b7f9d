"""What two splits share: captions and groups, counted. The audit looks deeper, at images and near copies too."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import ImageTextDataset


@dataclass(frozen=True)
class SplitOverlap:
    """What a split shares with one before it.

    Attributes:
        first, second: the splits.
        captions: distinct captions that stand in both.
        rows: rows of ``second`` that have one of them.
        groups: values of the column ``group`` that stand in both; None where one of them has no such column.
    """

    first: str
    second: str
    captions: int
    rows: int
    groups: int | None


def split_overlaps(splits: Mapping[str, ImageTextDataset]) -> list[SplitOverlap]:
    """Compare every two splits, in their order; captions are compared as they stand, to the letter."""
    return [
        _compare(first, splits[first], second, splits[second]) for first, second in itertools.combinations(splits, 2)
    ]


def _compare(first: str, one: ImageTextDataset, second: str, other: ImageTextDataset) -> SplitOverlap:
    column = other.table["texts"].combine_chunks()
    texts = column.flatten()
    shared = pc.is_in(texts, pc.unique(one.table["texts"].combine_chunks().flatten()))
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    row_of = np.repeat(np.arange(len(other)), lengths)
    rows = np.unique(row_of[shared.to_numpy(zero_copy_only=False)]).size
    groups = None
    if one.has("group") and other.has("group"):
        own = pc.unique(other.table["group"].cast(pa.string())).drop_null()
        groups = pc.sum(pc.is_in(own, pc.unique(one.table["group"].cast(pa.string())).drop_null())).as_py() or 0
    return SplitOverlap(first, second, pc.count_distinct(texts.filter(shared)).as_py(), int(rows), groups)
