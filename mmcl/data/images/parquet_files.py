"""Parquet files that are read in pieces: on this disk, or on the Hub by range requests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, Protocol


class ParquetFiles(Protocol):
    """Files that hold the rows of one data set, in order; pickled for loader workers."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """File ``number``, as messages call it."""
        ...

    def open(self, number: int) -> BinaryIO:
        """File ``number``, opened for reading any part of it. Raises OSError."""
        ...

    def identity(self) -> str:
        """A hash that changes when what the files hold does."""
        ...


class LocalFiles:
    """Files on this disk.

    Args:
        paths: absolute paths.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, number: int) -> str:
        """The file's path."""
        return self._paths[number]

    def open(self, number: int) -> BinaryIO:
        """The file, opened. Raises OSError."""
        return open(self._paths[number], "rb")

    def identity(self) -> str:
        """A hash of the paths, sizes and times of change."""
        stats = [(path, os.stat(path)) for path in self._paths]
        lines = [f"{path}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}" for path, stat in stats]
        return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()


class HubFile(NamedTuple):
    """A file of a data set repository: its path inside, and its bytes."""

    path: str
    size: int


class HubFiles:
    """Files of a data set on the Hugging Face Hub at one commit, read by range requests.

    Args:
        repository: ``owner/name``.
        commit: the commit's hash.
        files: which files, in order.
        endpoint: the Hub's address; None: the usual one.
    """

    def __init__(self, repository: str, commit: str, files: Sequence[HubFile], *, endpoint: str | None = None) -> None:
        self._repository, self._commit, self._files, self._endpoint = repository, commit, list(files), endpoint

    def __len__(self) -> int:
        return len(self._files)

    def name(self, number: int) -> str:
        """``owner/name/path/in/repository.parquet``."""
        return f"{self._repository}/{self._files[number].path}"

    def open(self, number: int) -> BinaryIO:
        """The file, opened; nothing is fetched before it is read. Raises OSError, or an error of the HTTP client."""
        from huggingface_hub import HfFileSystem

        path, size = self._files[number]
        place = f"datasets/{self._repository}@{self._commit}/{path}"
        # Parquet asks for the ranges it needs; fsspec's own reading ahead would fetch megabytes of images beside.
        return HfFileSystem(endpoint=self._endpoint).open(place, "rb", size=size, cache_type="none")

    def identity(self) -> str:
        """A hash of repository, commit and paths."""
        lines = [self._repository, self._commit, *(file.path for file in self._files)]
        return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()
