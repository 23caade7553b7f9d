"""CSV and TSV files, read by arrow, every column as text."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from mmcl.batch import SkippedRow
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

csv.field_size_limit(1 << 30)


def read_csv(path: Path, *, delimiter: str) -> RawRows:
    """Read a file with a header line. Every column stays text (``007`` stays ``007``); quoted fields may hold newlines.

    Rows with too many or too few fields, or that are not UTF-8, are skipped.

    Raises:
        OSError: the file cannot be opened.
        DataError: no header, a repeated column name, or an unclosed quote.
    """
    header = _header(path, delimiter)
    broken: list[tuple[int, str]] = []

    def skip(row: pcsv.InvalidRow) -> str:
        broken.append((row.number, f"{row.actual_columns} fields, wanted {row.expected_columns}"))
        return "skip"

    def read(kind: pa.DataType) -> pa.Table:
        broken.clear()
        return pcsv.read_csv(
            path,
            read_options=pcsv.ReadOptions(use_threads=False, block_size=16 << 20),  # threads lose the row numbers
            parse_options=pcsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
            convert_options=pcsv.ConvertOptions(column_types=dict.fromkeys(header, kind)),
        )

    try:
        table = read(pa.string())
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise DataError(f"{path}: cannot be read as a table ({error})") from error
        table = read(pa.binary())
    records = _Records(path, delimiter)
    broken_records = [number - 2 for number, _ in broken]  # arrow counts the header as row 1
    numbers = np.delete(np.arange(len(table) + len(broken)), broken_records)
    skipped = [
        SkippedRow(record, place, reason)
        for record, place, (_, reason) in zip(broken_records, records.locate(broken_records), broken)
    ]
    if header and pa.types.is_binary(table[0].type):
        table, numbers, undecoded = _decode(table, numbers)
        places = records.locate(undecoded)
        skipped += [SkippedRow(row, place, "not UTF-8") for row, place in zip(undecoded, places)]
    return RawRows(table, str(path), records.locate, numbers, skipped)


def _header(path: Path, delimiter: str) -> list[str]:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        header = next((row for row in csv.reader(file, delimiter=delimiter) if row), None)
    if header is None:
        raise DataError(f"{path} is empty; wanted a header line and rows")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path}: the header names {', '.join(map(repr, repeated))} more than once")
    return header


def _decode(table: pa.Table, numbers: np.ndarray) -> tuple[pa.Table, np.ndarray, list[int]]:
    """Binary columns as text, without the rows that are not UTF-8; and those rows' numbers."""
    good = np.ones(len(table), dtype=bool)
    for column in table.columns:
        for row, cell in enumerate(column.to_pylist()):
            try:
                cell.decode("utf-8")
            except UnicodeDecodeError:
                good[row] = False
    kept = table.filter(pa.array(good))
    text = pa.table({name: kept[name].cast(pa.string()) for name in kept.column_names})
    return text, numbers[good], numbers[~good].tolist()


class _Records:
    """Record numbers to ``file:line`` (the line a record ends on); lines are counted only when a place is asked for."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path, self._delimiter = path, delimiter
        self._lines: list[int] | None = None

    def locate(self, records: Sequence[int]) -> list[str]:
        if not len(records):
            return []
        if self._lines is None:
            with open(self._path, newline="", encoding="utf-8-sig", errors="replace") as file:
                reader = csv.reader(file, delimiter=self._delimiter)
                self._lines = [reader.line_num for row in reader if row][1:]
        return [f"{self._path}:{self._lines[record]}" for record in records]
