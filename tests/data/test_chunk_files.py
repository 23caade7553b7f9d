"""Chunks of rows: computed once, in the same pieces by any number of processes, in files or in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcl.batch import SkippedRow
from mmcl.data.chunk_files import Chunk, Sharing, computed_chunks, read_chunk, stored_chunks
from mmcl.errors import DataError


def rows(start: int, stop: int) -> Chunk:
    skipped = [SkippedRow(row, f"file {row}", "dämaged") for row in range(start, stop) if row == 4]
    return Chunk(np.arange(start, stop, dtype=np.float32)[:, None], skipped)


class Recorded:
    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def __call__(self, start: int, stop: int) -> Chunk:
        self.asked.append((start, stop))
        return rows(start, stop)


@pytest.mark.parametrize(("total", "pieces"), [(0, []), (2, [(0, 2)]), (3, [(0, 3)]), (7, [(0, 3), (3, 6), (6, 7)])])
def test_files_and_memory_hold_the_same(tmp_path: Path, total: int, pieces: list[tuple[int, int]]) -> None:
    stored, computed = Recorded(), Recorded()
    files = stored_chunks(tmp_path / "a" / "b", total, stored, chunk_rows=3)
    memory = computed_chunks(total, computed, chunk_rows=3)
    assert stored.asked == computed.asked == pieces
    for one, other in zip(files, memory, strict=True):
        assert np.array_equal(one.rows, other.rows)
        assert one.skipped == other.skipped
    assert [row for chunk in files for row in chunk.rows[:, 0].tolist()] == list(range(total))
    again = Recorded()
    stored_chunks(tmp_path / "a" / "b", total, again, chunk_rows=3)
    assert again.asked == []


def test_only_what_is_missing_is_computed(tmp_path: Path) -> None:
    stored_chunks(tmp_path, 7, rows, chunk_rows=3)
    (tmp_path / "rows_000000003.json").unlink()
    assert read_chunk(tmp_path, 3) is None
    again, found = Recorded(), []
    stored_chunks(tmp_path, 7, again, chunk_rows=3, found=lambda *numbers: found.append(numbers))
    assert again.asked == [(3, 6)]
    assert found == [(1, 3)]


def test_progress_is_told_before_and_after_each(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    stored_chunks(tmp_path, 5, rows, chunk_rows=3, progress=lambda *news: told.append(news))
    assert told == [(0, 5), (3, 5), (3, 5), (5, 5)]


def test_a_failure_is_raised_where_it_happened_and_where_others_wait(tmp_path: Path) -> None:
    def failing(start: int, stop: int) -> Chunk:
        raise DataError("no such file")

    with pytest.raises(DataError, match="no such file"):
        stored_chunks(tmp_path, 5, failing, chunk_rows=3)
    with pytest.raises(DataError, match="no such file"):
        computed_chunks(5, failing, chunk_rows=3)
    # What another process says of its failure, seen from one that had none and from one that has its own.
    other = Sharing(0, 2, lambda value: [value, DataError("rank 1 is out of disk")])
    with pytest.raises(DataError, match="rank 1 is out of disk"):
        other.settle(None)
    with pytest.raises(ZeroDivisionError):
        other.settle(ZeroDivisionError())
    told: list[object] = []
    Sharing(0, 1, lambda value: told.append(value) or [None]).settle(None)
    with pytest.raises(LookupError):
        Sharing(0, 1, lambda value: told.append(value) or [None]).settle(LookupError("x"))
    assert told[0] is None
    assert isinstance(told[1], RuntimeError), "what cannot surely be sent is told as words"
