"""Data that are opened and not yet read: their splits are known, their rows come when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.joining import join_datasets
from mmcl.data.sources.normalise import normalise
from mmcl.data.sources.rows import OneTable, Source
from mmcl.data.splits.names import canonical_split


class OpenedData(Protocol):
    """What a reference without its split names.

    Attributes:
        name: the reference, as messages and results call it.
    """

    name: str

    def splits(self) -> list[str]:
        """The splits, as the data spell them; empty when there are none."""
        ...

    def dataset(self, split: str | None) -> ImageTextDataset:
        """The rows of one of ``splits()``; None where there are none."""
        ...

    def whole(self) -> ImageTextDataset:
        """The rows of all splits, and those of no split, as one."""
        ...


class OpenedRows:
    """A source of rows, whose columns are normalised split by split.

    Args:
        name: the reference.
        source: where the rows come from; a table is read once, however many splits are asked for.
        columns: the user's column names.
    """

    def __init__(self, name: str, source: Source, *, columns: Mapping[str, str]) -> None:
        self.name, self._source, self._columns = name, source, columns

    def splits(self) -> list[str]:
        """The splits, as the source spells them."""
        return self._source.splits()

    def dataset(self, split: str | None) -> ImageTextDataset:
        """The rows of a split.

        Raises:
            DataError: a column is missing, or no row can be used.
        """
        name = self.name if split is None else f"{self.name}:{canonical_split(split)}"
        return normalise(self._source.rows(split), name=name, columns=self._columns)

    def whole(self) -> ImageTextDataset:
        """All rows.

        Raises:
            DataError: as ``dataset``.
        """
        splits = self.splits()
        if not splits or isinstance(self._source, OneTable):
            return self.dataset(None)
        return join_datasets([self.dataset(split) for split in splits], names=splits, name=self.name)


class OpenedVectors:
    """``vectors:FILE``: embeddings computed elsewhere; they have no splits."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self._path = name, path

    def splits(self) -> list[str]:
        """None."""
        return []

    def dataset(self, split: str | None) -> ImageTextDataset:
        """The file's rows.

        Raises:
            DataError: the file is missing or damaged.
        """
        from mmcl.data.vectors import vectors_dataset

        return vectors_dataset(self._path)

    def whole(self) -> ImageTextDataset:
        """The file's rows."""
        return self.dataset(None)
