"""Images in files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmcl.data.images.decoding import read_file
from mmcl.data.images.encoded import EncodedImages


class FileImages(EncodedImages):
    """Images in files.

    Args:
        root: the folder that relative paths start from.
        paths: (n,) strings, relative to ``root`` or absolute.
    """

    def __init__(self, root: str | Path, paths: pa.Array | pa.ChunkedArray) -> None:
        self.root = str(root)
        paths = paths.cast(pa.large_string())  # 64-bit offsets: the paths of many millions of rows pass 2 GiB
        self.paths = paths.combine_chunks() if isinstance(paths, pa.ChunkedArray) else paths
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, row: int) -> str:
        """The file of image ``row``."""
        return os.path.join(self.root, self.paths[int(row)].as_py())

    def encoded(self, row: int) -> bytes:
        """The file of image ``row``. Raises DataError when it is missing."""
        return read_file(self.path(row))

    def describe(self, row: int) -> str:
        """The file of image ``row``."""
        return self.path(row)

    def select(self, rows: np.ndarray) -> FileImages:
        """A store of these rows alone, in this order."""
        return FileImages(self.root, self.paths.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def fingerprint(self) -> str:
        """A hash of the paths, sizes and modification times; stats every file once. A missing file counts as such."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for path in self.paths.to_pylist():
                try:
                    stat = os.stat(os.path.join(self.root, path))
                    digest.update(f"{path}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1e".encode())
                except OSError:
                    digest.update(f"{path}\x1fmissing\x1e".encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint
