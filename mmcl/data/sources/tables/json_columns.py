"""Columns of JSON values, whatever the mixture of types under one key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.sources.cells import json_cell

_EXACT_FLOAT = 2.0**53


def table_from_objects(objects: Sequence[dict[str, Any]]) -> pa.Table:
    """Python dictionaries as columns, whatever the mixture of types; a missing key is null."""
    keys = dict.fromkeys(key for item in objects for key in item)
    return pa.table({key: _column([item.get(key) for item in objects]) for key in keys})


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """The blocks' rows, one after another; keys whose type differs between blocks become texts, as within one."""
    if not tables:
        return pa.table({})
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
        if not any(lost_digits(column) for column in table.columns):
            return table
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        pass  # one key of several types
    columns = {}
    for key in dict.fromkeys(name for table in tables for name in table.column_names):
        parts = [
            table[key] if key in table.column_names else pa.chunked_array([pa.nulls(len(table))]) for table in tables
        ]
        kinds = {part.type for part in parts} - {pa.null()}
        if len(kinds) > 1:
            columns[key] = _column([value for part in parts for value in part.to_pylist()])
        else:
            kind = kinds.pop() if kinds else pa.null()
            columns[key] = pa.chunked_array([chunk for part in parts for chunk in part.cast(kind).chunks], kind)
    return pa.table(columns)


def lost_digits(column: pa.ChunkedArray) -> bool:
    """Whether a column of floats holds whole numbers too large to be exact."""
    if not pa.types.is_floating(column.type):
        return False
    highest = pc.max(pc.abs(column)).as_py()
    return highest is not None and highest >= _EXACT_FLOAT


def _column(values: list[Any]) -> pa.Array:
    try:
        column = pa.array(values)
        if not pa.types.is_temporal(column.type):
            return column
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass  # several types under one key: made one below
    given = [value for value in values if value is not None]
    if all(_is_text_or_texts(value) for value in given):
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        return pa.array(lists, pa.list_(pa.string()))
    if not any(isinstance(value, list | dict) for value in given):
        return pa.array([value if value is None or isinstance(value, str) else json_cell(value) for value in values])
    return pa.array([json_cell(value) for value in values], pa.string())


def _is_text_or_texts(value: Any) -> bool:
    if isinstance(value, list):
        return all(item is None or isinstance(item, str) for item in value)
    return isinstance(value, str)
