"""Rows of many items, a fixed number at a time: computed by one process or several, kept in files and found again."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmcl.batch import SkippedRow
from mmcl.errors import MmclError


class Chunk(NamedTuple):
    """Some consecutive rows.

    Attributes:
        rows: (r, ...) float32; mapped from its file where it was read from one. Skipped rows hold NaN.
        skipped: the rows that could not be computed.
    """

    rows: np.ndarray
    skipped: list[SkippedRow]


@dataclass(frozen=True)
class Sharing:
    """How processes that ask for the same rows at once divide the work.

    Attributes:
        rank: this process's number.
        world_size: processes; 1: nothing is shared.
        gather: a value of every process, in rank order; returns when every process has called it.
    """

    rank: int = 0
    world_size: int = 1
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    def settle(self, failure: Exception | None) -> None:
        """Return when every process has called it; where one of them brings a failure, raise it on all.

        Without it the others would wait for a process that has given up.
        """
        told = failure if failure is None or isinstance(failure, MmclError | OSError) else RuntimeError(repr(failure))
        first = next((other for other in self.gather(told) if other is not None), None)
        if failure is not None:
            raise failure
        if first is not None:
            raise first


ALONE = Sharing()


def stored_chunks(
    folder: Path,
    total: int,
    compute: Callable[[int, int], Chunk],
    *,
    chunk_rows: int,
    sharing: Sharing = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
    found: Callable[[int, int], None] = lambda missing, chunks: None,
) -> list[Chunk]:
    """The chunks of a folder, those that are missing or damaged computed first.

    Where chunks begin depends on nothing but ``chunk_rows``, so that the rows are the same on any number of processes
    and after any interruption.

    Args:
        folder: named after all that the rows depend on; made when missing.
        total: rows in all; 0 gives no chunks.
        compute: (start, stop) -> these rows.
        chunk_rows: rows a file: what a broken-off run loses at most, and what processes share out.
        sharing: with other processes.
        progress: told how many rows of how many are done.
        found: told how many chunks of how many are missing.

    Returns:
        All chunks in order, read from the files.

    Raises:
        OSError: the folder cannot be written.
    """
    starts = range(0, total, chunk_rows)
    chunks = {start: read_chunk(folder, start) for start in starts}
    missing = [start for start in starts if chunks[start] is None]
    # One process after another reads a chunk as missing or not while others write: agree on one list.
    missing = sharing.gather(missing)[0]
    found(len(missing), len(starts))
    failure = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for start in missing[sharing.rank :: sharing.world_size]:
            stop = min(total, start + chunk_rows)
            progress(start, total)
            write_chunk(folder, start, compute(start, stop))
            progress(stop, total)
    except Exception as error:
        failure = error
    sharing.settle(failure)
    for start in starts:
        chunks[start] = chunks[start] or read_chunk(folder, start)
        if chunks[start] is None:  # another machine wrote it on a disk of its own
            write_chunk(folder, start, compute(start, min(total, start + chunk_rows)))
            chunks[start] = read_chunk(folder, start)
    return [chunks[start] for start in starts]


def computed_chunks(
    total: int,
    compute: Callable[[int, int], Chunk],
    *,
    chunk_rows: int,
    sharing: Sharing = ALONE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Chunk]:
    """The same chunks as ``stored_chunks`` gives, kept in memory alone.

    Args:
        total: rows in all; 0 gives no chunks.
        compute: (start, stop) -> these rows.
        chunk_rows: rows a chunk.
        sharing: with other processes, one chunk each at a time.
        progress: told how many rows of how many are done.
    """
    starts, chunks = range(0, total, chunk_rows), []
    for first in range(0, len(starts), sharing.world_size):
        own, failure = None, None
        if first + sharing.rank < len(starts):
            start = starts[first + sharing.rank]
            progress(start, total)
            try:
                own = compute(start, min(total, start + chunk_rows))
            except Exception as error:
                failure = error
        sharing.settle(failure)
        chunks += [chunk for chunk in sharing.gather(own) if chunk is not None]
        progress(min(total, len(chunks) * chunk_rows), total)
    return chunks


def _path(folder: Path, start: int, suffix: str) -> Path:
    return folder / f"rows_{start:09d}{suffix}"


def read_chunk(folder: Path, start: int) -> Chunk | None:
    """The chunk that begins at a row; None where it is not written, or damaged."""
    try:
        skipped = json.loads(_path(folder, start, ".json").read_text(encoding="utf-8"))  # written last
        rows = np.load(_path(folder, start, ".npy"), mmap_mode="r", allow_pickle=False)
        return Chunk(rows, [SkippedRow(**row) for row in skipped])
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, EOFError):
        return None


def write_chunk(folder: Path, start: int, chunk: Chunk) -> None:
    """Write a chunk; each file appears whole, the list of skipped rows last."""
    partial = folder / f".{start}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        np.save(file, chunk.rows, allow_pickle=False)
    os.replace(partial, _path(folder, start, ".npy"))
    skipped = [dataclasses.asdict(row) for row in chunk.skipped]
    partial.write_text(json.dumps(skipped, ensure_ascii=False), encoding="utf-8")
    os.replace(partial, _path(folder, start, ".json"))
