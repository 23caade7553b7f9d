"""Column types: any arrow column to strings, or to lists of strings without blanks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.errors import DataError


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Labels, groups and ids as trimmed strings; blank is null, 3.0 is "3", lists and structs are JSON."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_nested(kind):
        column = pa.chunked_array([pa.array([json_cell(value) for value in column.to_pylist()], pa.string())])
    elif pa.types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), None, column)  # pandas writes missing values so
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    return pc.if_else(pc.equal(text, ""), None, text)


def as_lists(column: pa.ChunkedArray, *, what: str, separator: str | None = None) -> pa.ListArray:
    """A column of texts, or of lists of texts, as lists of trimmed texts without blanks; null gives an empty list.

    A string cell that is a JSON list of strings (all that a CSV file can hold) is read as that list.

    Args:
        column: strings, lists of strings, or numbers.
        what: the file and column, for the message.
        separator: what a plain string is split at; None keeps it whole.

    Raises:
        DataError: cells of another type, or more than 2 GiB of text.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ChunkedArray):  # arrow's lists of text end at 2 GiB
        raise DataError(f"{what} holds more than 2 GiB of text; give the rows as WebDataset shards, or split the table")
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_null(kind) or (not (_is_string(kind) or _is_list(kind)) and pa.types.is_primitive(kind)):
        column = column.cast(pa.string())
    if _is_string(column.type):
        column = _lists_of_strings(column.cast(pa.string()), separator)
    if not _is_list(column.type) or not (
        _is_string(column.type.value_type) or pa.types.is_null(column.type.value_type)
    ):
        raise DataError(f"{what} holds {kind}; wanted a text or a list of texts in each row")
    return _without_blanks(column)


def _lists_of_strings(column: pa.StringArray, separator: str | None) -> pa.ListArray:
    column = pc.utf8_trim_whitespace(column)
    maybe_json = pc.fill_null(pc.and_(pc.starts_with(column, '["'), pc.ends_with(column, '"]')), False)
    if pc.any(maybe_json).as_py():
        return pa.array([_cell_as_list(cell, separator) for cell in column.to_pylist()], pa.list_(pa.string()))
    if separator is not None:
        return pc.split_pattern(column, separator)
    return pa.ListArray.from_arrays(pa.array(np.arange(len(column) + 1, dtype=np.int32)), column)


def _cell_as_list(cell: str | None, separator: str | None) -> list[str]:
    if cell is None:
        return []
    if cell.startswith('["'):
        try:
            values = json.loads(cell)
        except ValueError:
            values = None
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return values
    return [cell] if separator is None else cell.split(separator)


def _without_blanks(lists: pa.ListArray) -> pa.ListArray:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    values = pc.utf8_trim_whitespace(pc.list_flatten(lists).cast(pa.string()))
    kept = pc.fill_null(pc.not_equal(values, ""), False)
    if not pc.all(kept).as_py():
        kept_before = np.concatenate([[0], np.cumsum(kept.to_numpy(zero_copy_only=False))])
        ends, values = kept_before[ends], values.filter(kept)
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), values)


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def json_cell(value: Any) -> str | None:
    """A value that arrow has no one type for, as text; null stays null."""
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)
