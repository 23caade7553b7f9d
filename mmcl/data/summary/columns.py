"""The columns of a data set: their types, how far they are filled, and groups, labels, domains and tags counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.summary.distributions import Spread, ValueCounts, count_values, spread_of


@dataclass(frozen=True)
class ColumnFacts:
    """One column.

    Attributes:
        name: its name in mmcl.
        type: its arrow type.
        filled: share of rows with a value; empty strings and lists are none.
    """

    name: str
    type: str
    filled: float


@dataclass(frozen=True)
class GroupFacts:
    """Which rows belong together.

    Attributes:
        from_column: whether there is a column ``group``; without one, rows with equal captions are a group.
        count: groups.
        sizes: rows of a group -> how many groups have so many.
    """

    from_column: bool
    count: int
    sizes: dict[int, int]


@dataclass(frozen=True)
class TagFacts:
    """The column ``tags``.

    Attributes:
        per_row: tags a row.
        tags: how often each tag stands.
    """

    per_row: Spread
    tags: ValueCounts


def column_facts(dataset: ImageTextDataset) -> list[ColumnFacts]:
    """Every column but ``texts``, which each row has."""
    names = [name for name in dataset.table.column_names if name != "texts"]
    return [ColumnFacts(name, str(dataset.table.schema.field(name).type), _filled(dataset, name)) for name in names]


def group_facts(dataset: ImageTextDataset, groups: np.ndarray) -> GroupFacts:
    """Count groups by their size.

    Args:
        dataset: for whether it has a column ``group``.
        groups: (n,) int64, the group of each row.
    """
    rows = np.bincount(groups) if len(groups) else np.zeros(0, dtype=np.int64)
    sizes, counts = np.unique(rows[rows > 0], return_counts=True)
    return GroupFacts(dataset.has("group"), int(counts.sum()), dict(zip(sizes.tolist(), counts.tolist())))


def value_counts(dataset: ImageTextDataset, column: str) -> ValueCounts | None:
    """How often each value of a column of strings or numbers stands; None where there is no such column."""
    if not dataset.has(column):
        return None
    values = dataset.table[column]
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        return None
    return count_values(values.cast(pa.string()))


def tag_facts(dataset: ImageTextDataset) -> TagFacts | None:
    """Count tags; None where there are none."""
    if not dataset.has("tags"):
        return None
    tags = dataset.table["tags"].combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(tags), 0).to_numpy(zero_copy_only=False)
    return TagFacts(spread_of(lengths), count_values(pc.list_flatten(tags)))


def _filled(dataset: ImageTextDataset, name: str) -> float:
    if not len(dataset):
        return 0.0
    values = dataset.table[name]
    given = pc.is_valid(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        given = pc.and_(given, pc.not_equal(pc.fill_null(values, ""), ""))
    elif pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        given = pc.greater(pc.fill_null(pc.list_value_length(values), 0), 0)
    return pc.sum(given).as_py() / len(dataset)
