"""Image stores: images in files, in memory, or inside tar shards, read one by one when they are needed.

Each holds its paths and offsets as arrow or NumPy arrays, so that millions of rows cost no Python objects, and can be
pickled or inherited through fork by loader workers.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from mmcl.data.decoding import decode_image, read_file
from mmcl.errors import DataError

MAX_OPEN_SHARDS = 256


class FileImages:
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

    def read(self, row: int) -> Tensor:
        """Image ``row``, uint8 (3, h, w). Raises DataError when the file is missing or no image."""
        path = self.path(row)
        return decode_image(read_file(path), source=path)

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


class BytesImages:
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

    def read(self, row: int) -> Tensor:
        """Image ``row``, uint8 (3, h, w). Raises DataError when it is no image."""
        data = self.data[int(self.rows[row])].as_py()
        if data is None:
            path = os.path.join(self.root, self._path(row) or "")
            return decode_image(read_file(path), source=path)
        return decode_image(data, source=self.describe(row))

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


class TarImages:
    """Images inside uncompressed tar files, read with ``os.pread`` at known offsets: any order, no extraction.

    Args:
        shards: the tar files.
        shard: (n,) which of them an image is in.
        offset, size: (n,) where its bytes stand in that file.
        names: (n,) its member name.
    """

    def __init__(
        self, shards: list[str], shard: np.ndarray, offset: np.ndarray, size: np.ndarray, names: pa.Array
    ) -> None:
        self.shards, self.shard, self.offset, self.size, self.names = shards, shard, offset, size, names
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.shard)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def __del__(self) -> None:
        for file in getattr(self, "_files", {}).values():
            os.close(file)

    def read(self, row: int) -> Tensor:
        """Image ``row``, uint8 (3, h, w). Raises DataError when the shard is missing or cut short, or no image."""
        size = int(self.size[row])
        try:
            data = self._read_bytes(int(self.shard[row]), size, int(self.offset[row]))
        except OSError as error:
            raise DataError(f"{self.describe(row)}: {error.strerror}") from error
        if len(data) < size:
            raise DataError(f"{self.describe(row)}: the shard ends inside this member")
        return decode_image(data, source=self.describe(row))

    def _read_bytes(self, shard: int, size: int, offset: int) -> bytes:
        # pread has no file position, so threads and forked workers may share a descriptor. None is closed while the
        # store lives (another thread may be reading); past the limit, and on Windows, each read opens its own.
        file = self._files.get(shard)
        if file is None:
            if len(self._files) >= MAX_OPEN_SHARDS or not hasattr(os, "pread"):
                with open(self.shards[shard], "rb") as opened:
                    opened.seek(offset)
                    return opened.read(size)
            file = self._files.setdefault(shard, os.open(self.shards[shard], os.O_RDONLY))
        return os.pread(file, size, offset)

    def describe(self, row: int) -> str:
        """``shard.tar:member``."""
        return f"{self.shards[int(self.shard[row])]}:{self.names[int(row)].as_py()}"

    def select(self, rows: np.ndarray) -> TarImages:
        """A store of these rows alone, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        names = self.names.take(pa.array(rows))
        return TarImages(self.shards, self.shard[rows], self.offset[rows], self.size[rows], names)

    def fingerprint(self) -> str:
        """A hash of the shards' paths, sizes and times and of the members."""
        digest = hashlib.sha256()
        for index in np.unique(self.shard):
            stat = os.stat(self.shards[index])
            digest.update(f"{self.shards[index]}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1e".encode())
        for column in (self.shard, self.offset, self.size):
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return digest.hexdigest()


def images_from_column(column: pa.ChunkedArray, *, root: str | Path, source: str) -> tuple[Any, pa.ChunkedArray]:
    """The store of an image column, and which of its rows name an image at all.

    Args:
        column: paths (string), encoded images (binary), or structs of ``bytes`` and ``path`` as ``datasets`` writes.
        root: the folder that relative paths start from.
        source: the file that the column comes from, for messages.

    Returns:
        An ``ImageStore`` of n images, and (n,) bool: false where the cell is null or blank.

    Raises:
        DataError: the column holds something else.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        given = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False)
        return FileImages(root, pc.fill_null(column, "")), given
    if pa.types.is_null(kind):
        return FileImages(root, pa.array([""] * len(column))), pa.chunked_array([pa.array([False] * len(column))])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return BytesImages(column, source=source, root=root), pc.is_valid(column)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        data = pc.struct_field(column, "bytes")
        paths = pc.struct_field(column, "path") if kind.get_field_index("path") >= 0 else None
        paths = None if paths is None or pa.types.is_null(paths.type) else paths
        given = pc.is_valid(data) if paths is None else pc.or_(pc.is_valid(data), pc.is_valid(paths))
        return BytesImages(data, source=source, paths=paths, root=root), given
    raise DataError(
        f"{source}: the image column holds {kind}; wanted file names, encoded bytes, or structs of bytes and path"
    )
