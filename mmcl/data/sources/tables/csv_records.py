"""The records of a CSV file as Python's own reader sees them: where each stands, and whether its quotes are closed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmcl.errors import DataError

csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Dialect:
    """How a file is written.

    Attributes:
        path: the file.
        delimiter: the separator.
        encoding: how its text is written; None is UTF-8.
        header: the columns' names where the file has no header line.
        quotes: whether ``"`` quotes fields.
    """

    path: Path
    delimiter: str
    encoding: str | None
    header: tuple[str, ...] | None = None
    quotes: bool = True

    def records(self, *, strict: bool = False) -> Iterator[tuple[list[str], int]]:
        """The records that are not blank, the header included, with the number of the line each ends on."""
        with open(self.path, newline="", encoding=self.encoding or "utf-8-sig", errors="replace") as file:
            lines = (line.replace("\0", "") for line in file)
            quoting = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
            reader = csv.reader(lines, delimiter=self.delimiter, strict=strict, quoting=quoting)
            yield from ((row, reader.line_num) for row in reader if row)


def check_quotes(dialect: Dialect) -> None:
    """Refuse a file in which a quote swallows the rows behind it: arrow's reader takes them for one field.

    Raises:
        DataError: names the line in which the quote opens.
    """
    last = 0
    try:
        for _row, line in dialect.records(strict=True):
            last = line
    except csv.Error as error:
        raise DataError(
            f"{dialect.path}:{last + 1}: a quote opens in this row and is not closed as it must be ({error}); close "
            f'it, or write it twice ("") where it is a character of the text'
        ) from error


class Records:
    """Record numbers to ``file:line`` (the line a record ends on); lines are counted only when a place is asked for."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._lines: np.ndarray | None = None

    def locate(self, records: Sequence[int]) -> list[str]:
        """The places of some records."""
        if not len(records):
            return []
        if self._lines is None:
            skipped = 0 if self._dialect.header else 1
            self._lines = np.array([line for _, line in self._dialect.records()][skipped:])
        return [f"{self._dialect.path}:{self._lines[record]}" for record in records]
