"""CSV and TSV files, read by arrow, every column as text."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv

from mmcl.batch import SkippedRow
from mmcl.data.images.column import NO_DOWNLOADS
from mmcl.data.sources.rows import RawRows
from mmcl.data.sources.tables.csv_records import Dialect, Records, check_quotes
from mmcl.data.sources.tables.text_encoding import drop_undecodable, encoding_by_mark
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

_BLOCK_BYTES = 16 << 20  # a row longer than a block is an error of arrow's reader
_LARGEST_BLOCK = (1 << 31) - 1
_SEPARATORS = (",", ";", "\t", "|")
_IMAGE_NAME = re.compile(r"\S.*\.(jpe?g|png|webp|gif|bmp|tiff?)(#\d+)?$", re.IGNORECASE)
_NUL_REASON = "holds NUL bytes: the file is damaged here"


def read_csv(
    path: Path,
    *,
    delimiter: str,
    encoding: str | None = None,
    header: Sequence[str] | None = None,
    quotes: bool = True,
) -> RawRows:
    """Read a file with a header line. Every column stays text (``007`` stays ``007``); quoted fields may hold newlines.

    Rows with too many or too few fields, with NUL bytes, or that are not UTF-8, are skipped. A header without the
    separator that another (``,`` ``;`` tab ``|``) takes apart is read with that one, which is logged.

    Args:
        path: the file.
        delimiter: the separator.
        encoding: how the text is written; by default UTF-8, or what a byte-order mark says.
        header: the columns' names, where the file has no header line.
        quotes: whether ``"`` quotes fields; otherwise it is a character like others.

    Raises:
        OSError: the file cannot be opened.
        DataError: no header, a repeated column name, a quote that is not closed, or text in another encoding.
    """
    dialect = Dialect(path, delimiter, encoding or encoding_by_mark(path), tuple(header) if header else None, quotes)
    names = dialect.header
    if names is None:
        dialect, names = _read_header(dialect)
    broken: list[pcsv.InvalidRow] = []
    table = _read(dialect, names, broken)
    table = table.rename_columns([name.strip() for name in names])
    first = 1 if dialect.header else 2  # arrow counts the header as row 1
    records, broken_records = Records(dialect), [row.number - first for row in broken]
    skipped = [
        SkippedRow(record, place, f"{row.actual_columns} fields, wanted {row.expected_columns}")
        for record, place, row in zip(broken_records, records.locate(broken_records), broken)
    ]
    numbers = np.delete(np.arange(len(table) + len(broken)), broken_records)
    table, bad = drop_undecodable(path, table, place=lambda row: records.locate([int(numbers[row])])[0])
    skipped += _skip(records, numbers[bad], "not UTF-8")
    numbers = numbers[~bad]
    if dialect.delimiter == "|":  # written with blanks around it, as in flickr30k
        table = pa.table({name: pc.utf8_trim_whitespace(table[name]) for name in table.column_names})
    if _any_holds(table, "\n").any() or any("\n" in _text(row) for row in broken):
        check_quotes(dialect)
    nul = _any_holds(table, "\0")
    if nul.any():
        skipped += _skip(records, numbers[nul], _NUL_REASON)
        table, numbers = table.filter(pa.array(~nul)), numbers[~nul]
    return RawRows(table, str(path), records.locate, numbers, skipped)


def _read(dialect: Dialect, names: Sequence[str], broken: list[pcsv.InvalidRow]) -> pa.Table:
    """The file's columns as text; as bytes where they are not UTF-8."""
    kind, block, encoding = pa.string(), _BLOCK_BYTES, dialect.encoding or "utf8"
    while True:
        broken.clear()
        try:
            table = _read_once(dialect, dict.fromkeys(names, kind), block, encoding, broken)
            break
        except UnicodeError as error:
            raise DataError(f"{dialect.path} is not {encoding} ({error}); name its encoding") from error
        except pa.ArrowInvalid as error:
            problem = str(error)
            if "straddling" in problem and block < os.path.getsize(dialect.path):
                check_quotes(dialect)  # where the rest of the file is one row, that is the reason
                block = min(_LARGEST_BLOCK, block * 8)
            elif "UTF8" in problem and kind != pa.binary():
                kind = pa.binary()
            elif "Expected" in problem and encoding == "utf8":
                encoding = "latin-1"  # a row with too many fields is not UTF-8 either: arrow cannot hand it over
            else:
                raise DataError(f"{dialect.path}: cannot be read as a table ({error})") from error
    if encoding == "latin-1" and dialect.encoding is None:
        cells = {name: [cell.encode("latin-1") for cell in table[name].to_pylist()] for name in names}
        table = pa.table({name: pa.array(values, pa.binary()) for name, values in cells.items()})
    return table


def _read_once(
    dialect: Dialect, kinds: dict[str, pa.DataType], block: int, encoding: str, broken: list[pcsv.InvalidRow]
) -> pa.Table:
    def skip(row: pcsv.InvalidRow) -> str:
        broken.append(row)
        return "skip"

    read = pcsv.ReadOptions(
        use_threads=False,  # threads lose the row numbers
        block_size=block,
        encoding=encoding,
        column_names=None if dialect.header is None else list(dialect.header),
    )
    parse = pcsv.ParseOptions(
        delimiter=dialect.delimiter,
        newlines_in_values=dialect.quotes,
        quote_char='"' if dialect.quotes else False,
        invalid_row_handler=skip,
    )
    convert = pcsv.ConvertOptions(column_types=kinds)
    with _quiet_about(skip):
        return pcsv.read_csv(dialect.path, read_options=read, parse_options=parse, convert_options=convert)


@contextlib.contextmanager
def _quiet_about(function: Callable) -> Iterator[None]:
    """Within it, what is raised on the way to ``function`` is not printed: arrow reports it as an error as well."""
    hook = sys.unraisablehook

    def filtered(unraisable: Any) -> None:
        if unraisable.object is not function:
            hook(unraisable)

    sys.unraisablehook = filtered
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _read_header(dialect: Dialect) -> tuple[Dialect, tuple[str, ...]]:
    """The dialect with the separator that the header has, and the columns' names."""
    path = dialect.path
    try:
        header = next(dialect.records(), None)
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    except UnicodeError as error:
        raise DataError(f"{path} is not {dialect.encoding} ({error}); name its encoding") from error
    if header is None:
        raise DataError(f"{path} is empty; wanted a header line and rows")
    names = header[0]
    if len(names) == 1:
        others = [mark for mark in _SEPARATORS if mark in names[0] and mark != dialect.delimiter]
        if others:
            mark = max(others, key=names[0].count)
            log.warning("%s: its columns are separated by %r, not by %r", path, mark, dialect.delimiter)
            dialect = Dialect(path, mark, dialect.encoding, quotes=dialect.quotes)
            names = next(dialect.records())[0]
    _check_header(path, [name.strip() for name in names])
    return dialect, tuple(names)


def _check_header(path: Path, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    urls = [name for name in names if name.lower().startswith(("http://", "https://"))]
    if urls:
        raise DataError(
            f"{path} has no header line, and lists addresses of images ({urls[0][:100]}): {NO_DOWNLOADS}; img2dataset "
            f"wants a first line such as caption<TAB>url"
        )
    images = [name for name in names if _IMAGE_NAME.match(name)]
    if images:
        raise DataError(
            f"{path} has no header line: its first line names an image ({images[0][:100]}); write the columns' names "
            f"above it, such as image and text"
        )
    if repeated:
        raise DataError(f"{path}: the header names {', '.join(map(repr, repeated))} more than once")


def _any_holds(table: pa.Table, mark: str) -> np.ndarray:
    found = np.zeros(len(table), dtype=bool)
    for column in table.columns:
        found |= pc.fill_null(pc.match_substring(column, mark), False).to_numpy()
    return found


def _text(row: pcsv.InvalidRow) -> str:
    return row.text if isinstance(row.text, str) else ""


def _skip(records: Records, numbers: np.ndarray, reason: str) -> list[SkippedRow]:
    rows = numbers.tolist()
    return [SkippedRow(row, place, reason) for row, place in zip(rows, records.locate(rows))]
