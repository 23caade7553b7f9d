"""JSON-lines files, block by block: arrow's reader where it can, a line-exact one where it cannot."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from mmcl.batch import SkippedRow
from mmcl.data.sources.rows import RawRows
from mmcl.data.sources.tables.json_columns import join_tables, lost_digits, table_from_objects
from mmcl.data.sources.tables.text_encoding import encoding_by_mark
from mmcl.errors import DataError

_BLOCK_BYTES = 16 << 20
_PEEK = 1 << 16
_MANY = 2
_NOT_UTF8 = "not UTF-8"


def read_json_lines(path: Path, *, encoding: str | None = None) -> RawRows:
    """Read a file of one JSON object a line (or one list of objects).

    Arrow reads it block by block where every line is an object and every key has one type. In other blocks lines that
    are no object are skipped; keys of several types become lists of texts, texts, or JSON text.

    Args:
        path: the file.
        encoding: how the text is written; by default UTF-8, or what a byte-order mark says.

    Raises:
        OSError: the file cannot be opened.
        DataError: a list of objects is malformed, or the file is in another encoding.
    """
    encoding = encoding or encoding_by_mark(path)
    with _open_as_utf8(path, encoding) as file:
        start = file.read(_PEEK)
        if _begins_a_list(start):
            return _read_list(path, (start + file.read()).removeprefix(codecs.BOM_UTF8))
        blocks = [_read_block(path, lines, first) for first, lines in _blocks(file, start)]
    skipped = [row for block in blocks for row in block.skipped]
    _check_encoding(path, skipped, sum(len(block.table) for block in blocks), blocks)
    table = join_tables([block.table for block in blocks if len(block.table)])
    starts = np.cumsum([0] + [len(block.table) for block in blocks])

    def locate(rows: Sequence[int]) -> list[str]:
        owners = np.searchsorted(starts, rows, side="right") - 1
        return [f"{path}:{blocks[owner].line_of(int(row - starts[owner]))}" for owner, row in zip(owners, rows)]

    return RawRows(table, str(path), locate, skipped=skipped)


def _begins_a_list(start: bytes) -> bool:
    """Whether a file is one list; the first of a file's lines may be a list by mistake."""
    start = start.removeprefix(codecs.BOM_UTF8).lstrip()
    line, _, more = start.partition(b"\n")
    if line[:1] != b"[":
        return False
    try:
        return any(isinstance(value, dict) for value in json.loads(line)) or not more.strip()
    except ValueError:
        return True


@dataclass
class _Block:
    """The rows of some lines of a file.

    Attributes:
        table: a row for each line that holds an object.
        skipped: the other lines that are not blank.
        first: the number of the block's first line.
        lines: (n,) the lines of the rows, counted from ``first``; None where row i is line i.
    """

    table: pa.Table
    skipped: list[SkippedRow]
    first: int
    lines: np.ndarray | None = None

    def line_of(self, row: int) -> int:
        return self.first + (row if self.lines is None else int(self.lines[row]))


def _open_as_utf8(path: Path, encoding: str | None) -> IO[bytes]:
    if encoding is None:
        return open(path, "rb")
    try:
        return io.BytesIO(path.read_bytes().decode(encoding).encode())
    except UnicodeError as error:
        raise DataError(f"{path} is not {encoding} ({error}); name its encoding") from error


def _blocks(file: IO[bytes], start: bytes) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a file, about ``_BLOCK_BYTES`` at a time, with the number of the first."""
    number, rest = 1, start.removeprefix(codecs.BOM_UTF8)
    while True:
        more = file.read(_BLOCK_BYTES)
        end = more.rfind(b"\n") + 1
        if more and not end:  # a line longer than a block
            rest += more
            continue
        lines, rest = rest + more[:end], more[end:]
        if not more:
            lines, rest = lines + rest, b""
        if lines:
            yield number, lines
            number += lines.count(b"\n")
        if not more:
            return


def _read_block(path: Path, data: bytes, first: int) -> _Block:
    table = _read_fast(data)
    count = data.count(b"\n") + (not data.endswith(b"\n"))
    if table is not None and len(table) == count:
        return _Block(table, [], first)
    lines = data.split(b"\n")
    given = [number for number, line in enumerate(lines) if line.strip()]
    if table is not None and len(table) == len(given):
        return _Block(table, [], first, np.array(given))
    numbers, skipped = _check_lines(path, lines, first)
    table = _read_fast(b"\n".join(lines[number] for number in numbers))
    if table is None or len(table) != len(numbers):
        table = table_from_objects([_parsed(lines[number].decode()) for number in numbers])
    return _Block(table, skipped, first, np.array(numbers, dtype=np.int64))


def _check_encoding(path: Path, skipped: Sequence[SkippedRow], rows: int, blocks: Sequence[_Block]) -> None:
    """Refuse a file in another encoding throughout, of which only the lines in plain ASCII can be read."""
    bad = [row for row in skipped if row.reason.startswith(_NOT_UTF8)]
    if len(bad) < _MANY or len(bad) * 100 < rows + len(bad):
        return
    if not any(_beyond_ascii(column) for block in blocks for column in block.table.columns):
        raise DataError(
            f"{path} is not UTF-8: {len(bad)} of {rows + len(skipped)} lines, the first at {bad[0].source} "
            f"({bad[0].reason}); name its encoding behind the path (?encoding=cp1252), or convert it: "
            f"iconv -f CP1252 -t UTF-8"
        )


def _beyond_ascii(column: pa.ChunkedArray) -> bool:
    texts = column
    while pa.types.is_list(texts.type):
        texts = pc.list_flatten(texts)
    if not pa.types.is_string(texts.type):
        return False
    return pc.all(pc.string_is_ascii(texts)).as_py() is False


def table_from_lines(lines: Sequence[str]) -> pa.Table:
    """JSON objects, one a string, as columns; row i is line i."""
    table = _read_fast("\n".join(lines).encode())
    if table is None or len(table) != len(lines):
        table = table_from_objects([_parsed(line) for line in lines])
    return table


def _read_fast(data: bytes) -> pa.Table | None:
    """The table of JSON lines; None where arrow's reader fails or would change values."""
    options = pj.ReadOptions(block_size=max(1 << 20, len(data) + 1))

    def content() -> Any:
        return pa.BufferReader(data)

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
    if any(lost_digits(column) for column in table.columns):
        return None
    return table


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


def _check_lines(path: Path, lines: Sequence[bytes], first: int) -> tuple[list[int], list[SkippedRow]]:
    """The positions of the lines that hold an object, and the others that are not blank."""
    numbers, skipped = [], []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            reason = _problem(_parsed(line.decode()))
        except UnicodeDecodeError as error:
            shown = line[max(0, error.start - 20) : error.start + 20].decode("cp1252", errors="replace")
            reason = f"{_NOT_UTF8}; as cp1252 it reads {shown!r}"
        except (ValueError, RecursionError) as error:
            reason = f"malformed JSON ({error})"
        if reason is None:
            numbers.append(number)
        else:
            place = first + number
            skipped.append(SkippedRow(place - 1, f"{path}:{place}", reason))
    return numbers, skipped


def _parsed(text: str) -> Any:
    """A JSON value; NaN, which pandas writes for a missing value and which is no JSON, is null."""
    return json.loads(text, parse_constant=lambda _: None)


def _problem(value: Any) -> str | None:
    """Why a line's value is no row; None where it is one."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}, wanted an object"
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return f"no Unicode text: half of a character ({error.object[error.start]!a})"
    return None


def _read_list(path: Path, data: bytes) -> RawRows:
    try:
        values = _parsed(data.decode())
    except ValueError as error:
        raise DataError(f"{path}: begins like a list of objects, but is malformed JSON ({error})") from error
    problems = [_problem(value) for value in values]
    rows = [row for row, problem in enumerate(problems) if problem is None]
    skipped = [SkippedRow(row, f"{path}:item {row}", problem) for row, problem in enumerate(problems) if problem]
    table = table_from_objects([values[row] for row in rows])
    return RawRows(table, str(path), lambda wanted: [f"{path}:item {rows[row]}" for row in wanted], skipped=skipped)
