"""The image column of a `datasets.Dataset`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.data.images.decoding import read_file
from mmcl.data.images.encoded import EncodedImages
from mmcl.errors import DataError


class DatasetImages(EncodedImages):
    """The image column of a ``datasets.Dataset``, memory-mapped; it pickles as the paths of its files.

    Args:
        dataset: a data set whose column ``column`` is ``Image(decode=False)``.
        column: the image column.
        source: the data set's name, for messages.
        root: where paths inside the data set start.
        rows: which rows make up the store, in order; all by default.
    """

    def __init__(
        self, dataset: Any, column: str, *, source: str, root: Path = Path(), rows: np.ndarray | None = None
    ) -> None:
        self._dataset, self._column, self._source, self._root = dataset, column, source, root
        self._rows = np.arange(len(dataset), dtype=np.int64) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    def encoded(self, row: int) -> bytes:
        """The bytes of image ``row``, or of the file it names. Raises DataError when it has neither."""
        cell = self._dataset[int(self._rows[row])][self._column] or {}
        if cell.get("bytes") is not None:
            return cell["bytes"]
        if not cell.get("path"):
            raise DataError(f"{self.describe(row)}: the row has no image")
        return read_file(os.path.join(self._root, cell["path"]))

    def describe(self, row: int) -> str:
        """The data set and the row in it."""
        return f"{self._source}:row {self._rows[row]}"

    def select(self, rows: np.ndarray) -> DatasetImages:
        """A store of these rows alone, in this order."""
        chosen = self._rows[np.asarray(rows, dtype=np.int64)]
        return DatasetImages(self._dataset, self._column, source=self._source, root=self._root, rows=chosen)

    def fingerprint(self) -> str:
        """The fingerprint that ``datasets`` gives the data, with the rows."""
        return hashlib.sha256(self._dataset._fingerprint.encode() + self._rows.tobytes()).hexdigest()
