"""Images inside tar shards, read at known offsets."""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import Any

import numpy as np
import pyarrow as pa

from mmcl.data.images.encoded import EncodedImages
from mmcl.errors import DataError

MAX_OPEN_SHARDS = 256


class TarImages(EncodedImages):
    """Images inside uncompressed tar files, mapped into memory and read at known offsets: any order, no extraction.

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
        self._files: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self.shard)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}

    def encoded(self, row: int) -> bytes:
        """The member of image ``row``. Raises DataError when the shard is missing or cut short."""
        size = int(self.size[row])
        try:
            data = self._read_bytes(int(self.shard[row]), size, int(self.offset[row]))
        except OSError as error:
            raise DataError(f"{self.describe(row)}: {error.strerror}") from error
        if len(data) < size:
            raise DataError(f"{self.describe(row)}: the shard ends inside this member")
        return data

    def _read_bytes(self, shard: int, size: int, offset: int) -> bytes:
        # A memory map costs one copy, half of what pread costs, and has no file position: threads and workers may
        # share it. None is closed while the store lives (another thread may be reading); past the limit, each read
        # opens its own file.
        memory = self._files.get(shard)
        if memory is None:
            with open(self.shards[shard], "rb") as file:
                if len(self._files) >= MAX_OPEN_SHARDS or not os.fstat(file.fileno()).st_size:
                    file.seek(offset)
                    return file.read(size)
                memory = self._files.setdefault(shard, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        # To read behind the end of a file that has shrunk since would kill the process; ``size`` asks the file.
        return memory[offset : min(offset + size, memory.size())]

    def describe(self, row: int) -> str:
        """``shard.tar:member``."""
        return f"{self.shards[int(self.shard[row])]}:{self.names[int(row)].as_py()}"

    def select(self, rows: np.ndarray) -> TarImages:
        """A store of these rows alone, in this order."""
        rows = np.asarray(rows, dtype=np.int64)
        names = self.names.take(pa.array(rows))
        return TarImages(self.shards, self.shard[rows], self.offset[rows], self.size[rows], names)

    def blocks(self) -> np.ndarray:
        """(n,) int64: the shard each image is in. Batches of few shards at a time suit slow disks."""
        return self.shard.astype(np.int64)

    def fingerprint(self) -> str:
        """A hash of the shards' paths, sizes and times and of the members."""
        digest = hashlib.sha256()
        for index in np.unique(self.shard):
            stat = os.stat(self.shards[index])
            digest.update(f"{self.shards[index]}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1e".encode())
        for column in (self.shard, self.offset, self.size):
            digest.update(np.ascontiguousarray(column, dtype=np.int64).tobytes())
        return digest.hexdigest()
