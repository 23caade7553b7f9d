"""`RawRows`: what a source found, under the names it has there; and the sources' common face."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageStore
from mmcl.data.splits import canonical_split

Locate = Callable[[Sequence[int]], list[str]]


@dataclass(frozen=True)
class RawRows:
    """Rows as a source holds them, before their columns are normalised.

    Attributes:
        table: the columns, under the source's own names.
        source: the file, folder or id they come from, for messages.
        locate: row numbers -> the place of each (``file:line``); called for the few rows that are dropped.
        numbers: (n,) the row numbers that ``locate`` knows; None when they are 0 .. n - 1.
        skipped: rows that could not even be parsed.
        images: the images, one a row; None when they are to be read from the image column.
        root: the folder that relative image paths start from.
    """

    table: pa.Table
    source: str
    locate: Locate
    numbers: np.ndarray | None = None
    skipped: Sequence[SkippedRow] = ()
    images: ImageStore | None = None
    root: Path = field(default_factory=Path)

    def __len__(self) -> int:
        return self.table.num_rows

    def row_numbers(self, rows: np.ndarray) -> np.ndarray:
        """The source's own numbers of these rows."""
        return rows if self.numbers is None else self.numbers[rows]

    def select(self, rows: np.ndarray) -> RawRows:
        """These rows alone, in this order."""
        images = None if self.images is None else self.images.select(rows)
        return RawRows(
            self.table.take(pa.array(rows)), self.source, self.locate, self.row_numbers(rows), self.skipped, images,
            self.root,
        )  # fmt: skip


class Source(Protocol):
    """Data with named splits, or none."""

    def splits(self) -> list[str]:
        """The splits' names as the source has them; empty when it has none."""
        ...

    def rows(self, split: str | None) -> RawRows:
        """The rows of one of ``splits()``; None for all of them."""
        ...


class OneTable:
    """A source whose rows are read at once; a column may say which split each is in.

    Args:
        read: reads the rows; called once.
        split_column: the column with the splits' names; ignored where there is none.
    """

    def __init__(self, read: Callable[[], RawRows], *, split_column: str = "split") -> None:
        self._read, self._split_column = read, split_column
        self._rows: RawRows | None = None

    def _all(self) -> RawRows:
        if self._rows is None:
            self._rows = self._read()
        return self._rows

    def _split_values(self) -> pa.ChunkedArray | None:
        table = self._all().table
        if self._split_column not in table.column_names:
            return None
        values = pc.utf8_trim_whitespace(table[self._split_column].cast(pa.string()))
        return pc.if_else(pc.equal(values, ""), None, values)

    def splits(self) -> list[str]:
        values = self._split_values()
        return [] if values is None else sorted(set(pc.unique(values).to_pylist()) - {None})

    def rows(self, split: str | None) -> RawRows:
        if split is None:
            return self._all()
        # A file may spell one split in several ways (val, valid); they are the same split.
        spellings = [name for name in self.splits() if canonical_split(name) == canonical_split(split)]
        chosen = pc.is_in(self._split_values(), pa.array(spellings, pa.string()))
        return self._all().select(np.flatnonzero(chosen.to_numpy(zero_copy_only=False)))


class SplitSources:
    """A source whose splits are read apart, each only when asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], RawRows]]) -> None:
        self._readers = dict(readers)

    def splits(self) -> list[str]:
        return list(self._readers)

    def rows(self, split: str | None) -> RawRows:
        if split is None and len(self._readers) == 1:
            split = next(iter(self._readers))
        return self._readers[split]()
