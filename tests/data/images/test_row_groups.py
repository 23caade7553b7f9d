"""Images fetched by row group: each group once, broken connections, forks and threads."""

from __future__ import annotations

import io
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from stored_items import Item

from mmcl.data.images.row_groups import RowGroupImages, RowGroupReader, RowGroups
from mmcl.errors import DataError


class MemoryFiles:
    """Parquet files in memory; every read is counted, and some fail."""

    def __init__(self, files: list[bytes]) -> None:
        self.files, self.opened, self.broken, self.delay = files, 0, 0, threading.Event()

    def __len__(self) -> int:
        return len(self.files)

    def __getstate__(self) -> dict:
        return {"files": self.files, "opened": 0, "broken": 0}

    def name(self, number: int) -> str:
        return f"memory/{number}.parquet"

    def open(self, number: int) -> io.BytesIO:
        self.opened += 1
        if self.broken:
            self.broken -= 1
            raise ConnectionError("the line is dead")
        return io.BytesIO(self.files[number])

    def identity(self) -> str:
        return str(sum(map(len, self.files)))


def parquet(cells: list, rows: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": cells, "text": [str(n) for n in range(len(cells))]}), file, row_group_size=rows)
    return file.getvalue()


@pytest.fixture
def store(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> RowGroupImages:
    """Twelve images: six in three groups of two, six in two groups of three."""
    monkeypatch.setattr(RowGroupReader, "RETRY_SECONDS", (0.0, 0.0))
    cells = [{"bytes": item.png, "path": item.name} for item in items]
    files = MemoryFiles([parquet(cells, 2), parquet(cells, 3)])
    groups = RowGroups(
        np.array([0, 0, 0, 1, 1]),
        np.array([0, 1, 2, 0, 1]),
        np.array([0, 2, 4, 6, 9, 12]),
        np.array([900, 900, 900, 1400, 1400]),
    )
    return RowGroupImages(RowGroupReader(files, groups, "image"), source="memory")


def test_each_group_is_fetched_once(store, items):
    for row in (0, 11, 6, 1, 10, 5, 2, 7, 8, 3, 4, 9, 0, 11):
        assert store.encoded(row) == items[row % 6].png
    assert store.reader.num_fetched == store.reader.files.opened == 5
    assert torch.equal(store.read(7), torch.from_numpy(items[1].pixels).permute(2, 0, 1))
    assert not torch.equal(store.read(6), store.read(7)[:, :4])
    assert store.blocks().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]
    assert (store.describe(5), store.describe(7)) == ("memory/0.parquet:row 5", "memory/1.parquet:row 1")


def test_selected_rows(store, items):
    chosen = store.select(np.array([7, 3])).select(np.array([1, 0]))
    assert [chosen.encoded(row) for row in (0, 1)] == [items[3].png, items[1].png]
    assert chosen.blocks().tolist() == [1, 3]
    assert chosen.describe(1) == "memory/1.parquet:row 1"
    assert chosen.fingerprint() != store.fingerprint()
    assert chosen.fingerprint() == store.select(np.array([3, 7])).fingerprint()
    assert chosen.reader is store.reader


def test_few_groups_are_kept_and_used_up_ones_go_first(store):
    sizes = [store.reader._read(group).nbytes for group in range(5)]
    store.reader.max_bytes = sizes[0] + sizes[2] + sizes[3]
    for row in (0, 2, 6, 3):  # group 1 is used up by its second row
        store.encoded(row)
    assert sorted(store.reader._kept) == [0, 1, 3]
    store.encoded(4)
    assert sorted(store.reader._kept) == [0, 2, 3], "not the one that was used longest ago"
    store.encoded(9)
    assert 4 in store.reader._kept
    store.reader.max_bytes = 1
    store.encoded(2)
    assert list(store.reader._kept) == [1], "one is kept however large"
    assert store.blocks_in_memory() == 1


def test_a_broken_connection_is_tried_again(store, items):
    store.reader.files.broken = 2
    assert store.encoded(2) == items[2].png
    assert store.reader.files.opened == 3


def test_a_connection_that_stays_broken_costs_its_rows_and_names_them(store, items, monkeypatch):
    store.reader.files.broken = 1000
    message = (
        r"memory/0\.parquet:row 2: its row group cannot be read, tried 3 times \(ConnectionError: the line is dead\)"
    )
    with pytest.raises(DataError, match=message):
        store.encoded(2)
    assert store.reader.files.opened == 3
    with pytest.raises(DataError, match=r"row 3: its row group cannot be read"):
        store.encoded(3)
    assert store.reader.files.opened == 3, "its other rows do not wait again"
    store.reader.files.broken = 0
    assert store.encoded(0) == items[0].png, "other groups are read"
    monkeypatch.setattr(RowGroupReader, "REFUSED_SECONDS", -1.0)
    store.reader._refused.clear()
    assert store.encoded(2) == items[2].png


def test_damaged_and_missing_data(store, items, tmp_path):
    files = store.reader.files
    whole = files.files[0]
    files.files[0] = whole[:100] + b"\xff" * 300 + whole[400:]
    with pytest.raises(DataError, match=r"memory/0\.parquet:row 0: its row group"):
        store.encoded(0)
    files.files[1] = parquet([None, {"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}], 3)
    (tmp_path / "a.png").write_bytes(items[0].png)
    rooted = RowGroupImages(store.reader, source="memory", root=tmp_path)
    with pytest.raises(DataError, match=r"memory/1\.parquet:row 0: the row has no image"):
        rooted.encoded(6)
    assert rooted.encoded(7) == items[0].png
    with pytest.raises(DataError, match=r"b\.png: no such image file"):
        rooted.encoded(8)


def test_copies_and_forks_open_their_own_files(store, items):
    store.encoded(0)
    copy = pickle.loads(pickle.dumps(store))
    assert copy.encoded(0) == items[0].png
    assert copy.reader.num_fetched == 1
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        good = store.encoded(1) == items[1].png and store.reader.num_fetched == 1
        os.write(write, b"1" if good else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.close(write)


def test_threads_fetch_a_group_once(store, items):
    rows = list(range(12)) * 20
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(store.encoded, rows)) == [items[row % 6].png for row in rows]
    assert store.reader.num_fetched == 5


def test_scattered_reading_is_told_once(store, items, monkeypatch, caplog):
    monkeypatch.setattr(RowGroupReader, "SCATTERED_FETCHES", 4)
    monkeypatch.setattr(RowGroupReader, "SCATTERED_SHARE", 0.9)
    store.reader.max_bytes = 1
    with caplog.at_level("WARNING", logger="mmcl"):
        for row in (0, 2, 4, 6, 0, 2, 4, 6):
            store.encoded(row)
    assert caplog.text.count("batches.name=blocks") == 1
