"""Chunks of embeddings to one tensor, without the rows that could not be read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.chunk_files import Chunk, Sharing


class Embedded(NamedTuple):
    """Embeddings (n, d), the (n,) rows they belong to, and the rows that could not be read."""

    embeddings: Tensor
    rows: np.ndarray
    skipped: list[SkippedRow]


def _kept_rows(chunks: list[Chunk], total: int) -> tuple[np.ndarray, list[SkippedRow]]:
    skipped = [row for chunk in chunks for row in chunk.skipped]
    kept = np.ones(total, dtype=bool)
    kept[[row.row for row in skipped]] = False
    return np.flatnonzero(kept), skipped


def _copy_kept(chunks: list[Chunk], rows: np.ndarray, into: np.ndarray) -> None:
    """Write the rows that were not skipped, chunk by chunk."""
    start = 0
    for chunk in chunks:
        first, last = np.searchsorted(rows, [start, start + len(chunk.rows)])
        into[first:last] = chunk.rows[rows[first:last] - start]
        start += len(chunk.rows)


def joined_rows(chunks: list[Chunk], total: int, dim: int) -> Embedded:
    """Chunks joined in memory.

    Args:
        chunks: all of them, in order.
        total: rows in all.
        dim: d.
    """
    rows, skipped = _kept_rows(chunks, total)
    values = np.empty((len(rows), dim), dtype=np.float32)
    _copy_kept(chunks, rows, values)
    return Embedded(torch.from_numpy(values), rows, skipped)


def mapped_rows(folder: Path, chunks: list[Chunk], total: int, dim: int, sharing: Sharing) -> Embedded:
    """Chunks joined in one file, mapped from it: read as it is used, not held.

    Args:
        folder: of the chunks; the joined file is written beside them, where it is missing or older.
        chunks: all of them, in order.
        total: rows in all.
        dim: d.
        sharing: the main process writes for all.
    """
    rows, skipped = _kept_rows(chunks, total)
    if not len(rows):  # nothing can be mapped
        return joined_rows(chunks, total, dim)
    path = folder / "joined.npy"
    failure = None
    if sharing.rank == 0:
        try:
            _write_joined(path, chunks, rows, dim)
        except OSError as error:
            failure = error
    sharing.settle(failure)
    if not path.exists():  # a disk of its own
        _write_joined(path, chunks, rows, dim)
    # Copied where it is written to, so that the file stays as it is.
    return Embedded(torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False)), rows, skipped)


def _write_joined(path: Path, chunks: list[Chunk], rows: np.ndarray, dim: int) -> None:
    newest = max(file.stat().st_mtime_ns for file in path.parent.glob("rows_*.npy"))
    if path.exists() and path.stat().st_mtime_ns >= newest:
        return
    partial = path.with_name(f".joined.{os.getpid()}.partial")
    file = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(len(rows), dim))
    _copy_kept(chunks, rows, file)
    file.flush()
    os.replace(partial, path)
