"""JSON-lines files: arrow's reader where it can, a line-exact one where it cannot."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from mmcl.batch import SkippedRow
from mmcl.data.sources.cells import json_cell
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

_BLOCK_BYTES = 32 << 20  # a line longer than a block is an error of arrow's reader
_EXACT_FLOAT = 2.0**53


def read_json_lines(path: Path) -> RawRows:
    """Read a file of one JSON object a line (or one list of objects).

    Arrow reads it where every line is an object and every key has one type. Otherwise lines that are no object are
    skipped, and keys of several types become lists of texts, texts, or JSON text.

    Raises:
        OSError: the file cannot be opened.
        DataError: the file is a single JSON object, such as another data set's annotations.
    """
    table = _read_fast(path)
    if table is not None:
        return RawRows(table, str(path), _Lines(path).locate)
    data = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    if data.lstrip()[:1] == b"[":
        return _read_list(path, data)
    numbers, skipped = _check_lines(path, data)
    if skipped:
        lines = data.split(b"\n")
        table = _read_fast(b"\n".join(lines[number - 1] for number in numbers))
    if table is None:
        table = table_from_objects([json.loads(line) for line in _decoded(data, numbers)])
    return RawRows(table, str(path), lambda rows: [f"{path}:{numbers[row]}" for row in rows], skipped=skipped)


def table_from_objects(objects: Sequence[dict[str, Any]]) -> pa.Table:
    """Python dictionaries as columns, whatever the mixture of types; a missing key is null."""
    keys = dict.fromkeys(key for item in objects for key in item)
    return pa.table({key: _column([item.get(key) for item in objects]) for key in keys})


def table_from_lines(lines: Sequence[str]) -> pa.Table:
    """JSON objects, one a string, as columns; row i is line i."""
    table = _read_fast("\n".join(lines).encode())
    if table is None or len(table) != len(lines):
        table = table_from_objects([json.loads(line) for line in lines])
    return table


def _read_fast(source: Path | bytes) -> pa.Table | None:
    """The table of a file or of its content; None where arrow's reader fails or would change values."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    options = pj.ReadOptions(block_size=max(1 << 20, min(_BLOCK_BYTES, size + 1)))

    def content() -> Any:
        return pa.BufferReader(source) if isinstance(source, bytes) else pa.OSFile(str(source))

    try:
        table = pj.read_json(content(), read_options=options)
        if any(_has_time(column.type) for column in table.columns):
            # Strings that look like dates are read as times, and "2024-01-01" would come back as another string.
            schema = pa.schema([(column.name, _time_as_text(column.type)) for column in table.schema])
            parse = pj.ParseOptions(explicit_schema=schema)
            table = pj.read_json(content(), read_options=options, parse_options=parse)
        table.validate(full=True)  # the reader does not check UTF-8
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    if any(_lost_digits(column) for column in table.columns):
        return None
    return table


def _lost_digits(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_floating(column.type):
        return False
    highest = pc.max(pc.abs(column)).as_py()
    return highest is not None and highest >= _EXACT_FLOAT


def _has_time(kind: pa.DataType) -> bool:
    return pa.types.is_temporal(kind) or any(_has_time(kind.field(i).type) for i in range(kind.num_fields))


def _time_as_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _time_as_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_time_as_text(kind.value_type))
    return kind


def _check_lines(path: Path, data: bytes) -> tuple[list[int], list[SkippedRow]]:
    """The 1-based numbers of the lines that hold an object, and the others that are not blank."""
    numbers, skipped = [], []
    for number, line in enumerate(io.BytesIO(data), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode())
            reason = None if isinstance(value, dict) else f"a {type(value).__name__}, wanted an object"
        except ValueError as error:
            reason = f"malformed JSON ({error})"
        if reason is None:
            numbers.append(number)
        else:
            skipped.append(SkippedRow(number - 1, f"{path}:{number}", reason))
    return numbers, skipped


def _decoded(data: bytes, numbers: Sequence[int]) -> list[str]:
    lines = data.split(b"\n")
    return [lines[number - 1].decode() for number in numbers]


def _read_list(path: Path, data: bytes) -> RawRows:
    try:
        values = json.loads(data.decode())
    except ValueError as error:
        raise DataError(f"{path}: begins like a list of objects, but is malformed JSON ({error})") from error
    rows = [row for row, value in enumerate(values) if isinstance(value, dict)]
    skipped = [
        SkippedRow(row, f"{path}:item {row}", f"a {type(value).__name__}, wanted an object")
        for row, value in enumerate(values)
        if not isinstance(value, dict)
    ]
    table = table_from_objects([values[row] for row in rows])
    return RawRows(table, str(path), lambda wanted: [f"{path}:item {rows[row]}" for row in wanted], skipped=skipped)


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


class _Lines:
    """Row numbers to ``file:line``; blank lines are no rows. Lines are counted only when a place is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._numbers: np.ndarray | None = None

    def locate(self, rows: Sequence[int]) -> list[str]:
        if self._numbers is None:
            with open(self._path, "rb") as file:
                self._numbers = np.array([number for number, line in enumerate(file, start=1) if line.strip()])
        return [f"{self._path}:{self._numbers[row]}" for row in rows]
