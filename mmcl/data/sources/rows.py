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
from mmcl.data.splits.names import canonical_split
from mmcl.errors import DataError

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
        split_column: the column with the splits' names, in any case; ignored where there is none.
    """

    def __init__(self, read: Callable[[], RawRows], *, split_column: str = "split") -> None:
        self._read, self._split_column = read, split_column
        self._rows: RawRows | None = None
        self._values: pa.DictionaryArray | None = None

    def _all(self) -> RawRows:
        if self._rows is None:
            self._rows = self._read()
        return self._rows

    def _split_values(self) -> pa.DictionaryArray | None:
        """The split of each row, null where it has none; None where there is no column of splits."""
        if self._values is None:
            table, wanted = self._all().table, self._split_column
            names = [name for name in table.column_names if name.lower() == wanted.lower()]
            if not names:
                return None
            column = table[wanted if wanted in names else names[0]]
            if pa.types.is_nested(column.type):
                what = f"{self._all().source}: the column {names[0]!r} of splits"
                raise DataError(f"{what} holds {column.type}; wanted text")
            values = pc.utf8_trim_whitespace(column.cast(pa.string()))
            self._values = pc.if_else(pc.equal(values, ""), None, values).combine_chunks().dictionary_encode()
        return self._values

    def splits(self) -> list[str]:
        values = self._split_values()
        return [] if values is None else sorted(values.dictionary.to_pylist())

    def rows(self, split: str | None) -> RawRows:
        if split is None:
            return self._all()
        # A file may spell one split in several ways (val, valid); they are the same split.
        spellings = [name for name in self.splits() if canonical_split(name) == canonical_split(split)]
        values = self._split_values()
        codes = [values.dictionary.index(name).as_py() for name in spellings] if values is not None else []
        chosen = pc.is_in(values.indices, pa.array(codes, values.indices.type)) if codes else pa.array([], pa.bool_())
        return self._all().select(np.flatnonzero(chosen.to_numpy(zero_copy_only=False)))


class SplitSources:
    """A source whose splits are read apart, each only when asked for."""

    def __init__(self, readers: Mapping[str, Callable[[], RawRows]]) -> None:
        self._readers = dict(readers)

    def splits(self) -> list[str]:
        return list(self._readers)

    def rows(self, split: str | None) -> RawRows:
        if split is None:
            if len(self._readers) > 1:
                listed = ", ".join(self._readers)
                raise DataError(f"these data have the splits {listed}; name one (split folders are not nested)")
            split = next(iter(self._readers))
        return self._readers[split]()
