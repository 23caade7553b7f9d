"""Several data sets as one: their rows one after another, their columns side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.images.joined import join_images
from mmcl.logs import get_logger

log = get_logger(__name__)


def join_datasets(parts: Sequence[ImageTextDataset], *, names: Sequence[str], name: str) -> ImageTextDataset:
    """The rows of several data sets, one after another; a column that one of them lacks is null there.

    A column of mmcl's schema has one type everywhere. Any other column whose types cannot be brought together stands
    once for each part, as ``PART.column``, so that nothing is lost; that is logged.

    Args:
        parts: at least one.
        names: what to call each part.
        name: of the whole.

    Returns:
        The data set of all rows, with the skipped rows of all parts; the only part itself, under ``name``, where there
        is one.
    """
    tables = _offset_rows([part.table for part in parts])
    return ImageTextDataset(
        join_images([part.images for part in parts]),
        join_tables(tables, names=names),
        name=name,
        skipped=[row for part in parts for row in part.skipped],
    )


def join_tables(tables: Sequence[pa.Table], *, names: Sequence[str]) -> pa.Table:
    """The rows of several tables; columns of types that do not go together are kept apart, as ``NAME.column``."""
    apart = [column for column in _shared_columns(tables) if not _go_together(tables, column)]
    if apart:
        log.warning("%s: the types of these columns differ between %s; each keeps its own", apart, ", ".join(names))
    renamed = [
        table.rename_columns([f"{name}.{column}" if column in apart else column for column in table.column_names])
        for name, table in zip(names, tables)
    ]
    joined = pa.concat_tables(renamed, promote_options="permissive").replace_schema_metadata(None)
    order = [column for column in SCHEMA if column in joined.column_names]
    return joined.select([*order, *(column for column in joined.column_names if column not in order)])


def _shared_columns(tables: Sequence[pa.Table]) -> list[str]:
    seen: dict[str, int] = {}
    for table in tables:
        for column in table.column_names:
            seen[column] = seen.get(column, 0) + 1
    return [column for column, times in seen.items() if times > 1]


def _go_together(tables: Sequence[pa.Table], column: str) -> bool:
    kinds = [pa.schema([table.schema.field(column)]) for table in tables if column in table.column_names]
    try:
        pa.unify_schemas([kind.remove_metadata() for kind in kinds], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return False
    return True


def _offset_rows(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """``negative_rows`` number the rows of their own part; each part's numbers go up by the rows before it."""
    moved, start = [], 0
    for table in tables:
        if start and "negative_rows" in table.column_names:
            lists = table["negative_rows"].combine_chunks()
            lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            values = pc.add(pc.list_flatten(lists), pa.scalar(start, pa.int64()))
            numbered = pa.ListArray.from_arrays(pa.array(offsets), values)
            table = table.set_column(table.column_names.index("negative_rows"), "negative_rows", numbered)
        moved.append(table)
        start += table.num_rows
    return moved
