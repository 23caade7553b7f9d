"""Encoded images held in arrow memory, such as a Parquet column."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmcl.data.images.decoding import read_file
from mmcl.data.images.encoded import EncodedImages


class BytesImages(EncodedImages):
    """Encoded images held in arrow memory, such as a Parquet column.

    Args:
        data: (n,) binary; null where the image is a file instead.
        paths: (n,) strings or None: the file where ``data`` is null, and the image's name in messages.
        root: the folder that those files lie in.
        source: where the column comes from, for messages.
        rows: which rows of ``data`` make up the store, in order; all by default.
    """

    def __init__(
        self,
        data: pa.ChunkedArray,
        *,
        source: str,
        paths: pa.ChunkedArray | None = None,
        root: str | Path = ".",
        rows: np.ndarray | None = None,
    ) -> None:
        self.data, self.paths, self.root, self.source = data, paths, str(root), source
        self.rows = np.arange(len(data), dtype=np.int64) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, row: int) -> bytes:
        """The bytes of image ``row``, or of the file it names. Raises DataError when that is missing."""
        data = self.data[int(self.rows[row])].as_py()
        return read_file(os.path.join(self.root, self._path(row) or "")) if data is None else data

    def _path(self, row: int) -> str | None:
        return None if self.paths is None else self.paths[int(self.rows[row])].as_py()

    def describe(self, row: int) -> str:
        """The source and row, and the image's own name where it has one."""
        path = self._path(row)
        return f"{self.source}:row {self.rows[row]}" + (f" ({path})" if path else "")

    def select(self, rows: np.ndarray) -> BytesImages:
        """A store of these rows alone, in this order; the bytes are shared, not copied."""
        chosen = self.rows[np.asarray(rows, dtype=np.int64)]
        return BytesImages(self.data, source=self.source, paths=self.paths, root=self.root, rows=chosen)

    def fingerprint(self) -> str:
        """A hash of the encoded bytes (of the path, where a row is a file)."""
        digest = hashlib.sha256()
        for row in range(len(self)):
            data = self.data[int(self.rows[row])]
            digest.update(data.as_buffer() if data.is_valid else str(self._path(row)).encode())
            digest.update(b"\x1e")
        return digest.hexdigest()
