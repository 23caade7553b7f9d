"""Parquet read in pieces equals Parquet that is loaded whole; from this disk, and from a stand-in for the Hub."""

from __future__ import annotations

import io
import os
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hub_server import COMMIT, serve
from stored_items import write_csv

from mmcl.data import available_splits, load, load_all
from mmcl.data.images.parquet_files import HubFiles
from mmcl.data.images.row_groups import RowGroupImages, RowGroupReader
from mmcl.errors import ConfigError, DataError


def _table(items, rows) -> pa.Table:
    chosen = [items[row % len(items)] for row in rows]
    return pa.table(
        {
            "image": [{"bytes": item.png, "path": item.name} for item in chosen],
            "text": [[*item.texts, f"row {row}"] for row, item in zip(rows, chosen)],
            "label": [item.label for item in chosen],
            "width": [item.pixels.shape[1] for item in chosen],
        }
    )


@pytest.fixture
def folder(tmp_path, items) -> Path:
    (tmp_path / "data").mkdir()
    for name, rows in (("train-0", range(10)), ("train-1", range(10, 17)), ("val-0", range(17, 20))):
        pq.write_table(_table(items, rows), tmp_path / "data" / f"{name}.parquet", row_group_size=3)
    return tmp_path


def _assert_equal(streamed, whole) -> None:
    assert isinstance(streamed.images, RowGroupImages)
    assert not isinstance(whole.images, RowGroupImages)
    assert streamed.table.equals(whole.table)
    assert len(streamed) == len(streamed.images) == len(whole.images)
    for row in range(len(whole)):
        assert torch.equal(streamed.images.read(row), whole.images.read(row))
    assert torch.equal(streamed.group_ids(), whole.group_ids())


def test_streamed_is_loaded(folder):
    assert available_splits(f"{folder}?streaming=true") == available_splits(folder) == ["train", "validation"]
    for split in ("train", "validation"):
        _assert_equal(load(f"{folder}?streaming=true:{split}"), load(f"{folder}:{split}"))
    _assert_equal(load(f"{folder}/data/train-0.parquet?streaming=true"), load(folder / "data" / "train-0.parquet"))
    train = load(f"{folder}/data/train-*.parquet?streaming=true")
    _assert_equal(train, load(f"{folder}:train"))
    assert train.images.describe(12) == f"{folder}/data/train-1.parquet:row 2"
    assert train.images.blocks().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 4, 4, 4, 5, 5, 5, 6]
    assert train.images.reader.num_fetched == 7, "each row group once"
    other = load(f"{folder}:validation")
    assert not load(f"{folder}?streaming=true:train").table.slice(0, 3).equals(other.table), "a control"
    assert load(f"{folder}?streaming=true&buffer_mb=3:train").images.reader.max_bytes == 3 << 20


def test_splits_in_folders_and_by_a_column(tmp_path, items):
    for split in ("train", "test"):
        (tmp_path / "in" / split).mkdir(parents=True)
        pq.write_table(_table(items, range(4)), tmp_path / "in" / split / "0.parquet")
    assert list(load_all(f"{tmp_path}/in?streaming=true")) == ["train", "test"]
    table = _table(items, range(6)).append_column("split", pa.array(["train", "dev"] * 3))
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=2)
    dataset = load(f"{tmp_path}/one.parquet?streaming=true:validation")
    assert dataset.column("texts") == load(f"{tmp_path}/one.parquet:validation").column("texts")
    assert torch.equal(dataset.images.read(2), torch.from_numpy(items[5].pixels).permute(2, 0, 1))


def test_rows_without_a_caption_are_dropped_and_named(tmp_path, items):
    table = _table(items, range(6)).set_column(1, "text", pa.array(["a", None, "b", " ", "c", "d"]))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    dataset = load(f"{tmp_path}/a.parquet?streaming=true")
    assert dataset.column("texts") == [["a"], ["b"], ["c"], ["d"]]
    assert [row.source for row in dataset.skipped] == [f"{tmp_path}/a.parquet:row 1", f"{tmp_path}/a.parquet:row 3"]
    assert torch.equal(dataset.images.read(3), torch.from_numpy(items[5].pixels).permute(2, 0, 1))


def test_heavy_columns_stay_out_and_paths_are_files(tmp_path, items):
    table = _table(items, range(3))
    for name, column in (("second", table["image"]), ("blob", pa.array([b"x" * 100] * 3))):
        pq.write_table(table.append_column(name, column), tmp_path / f"{name}.parquet")
        assert name not in load(f"{tmp_path}/{name}.parquet?streaming=true").table.column_names
    for item in items[:3]:
        (tmp_path / item.name).write_bytes(item.png)
    pq.write_table(pa.table({"image": ["0.png", "1.png"], "text": ["a", "b"]}), tmp_path / "paths.parquet")
    dataset = load(f"{tmp_path}/paths.parquet?streaming=true")
    assert torch.equal(dataset.images.read(1), torch.from_numpy(items[1].pixels).permute(2, 0, 1))


def test_what_cannot_be_streamed_says_so(tmp_path, items, folder):
    csv = write_csv(tmp_path / "a.csv", [{"image": "0.png", "text": "a"}])
    with pytest.raises(DataError, match=r"a\.csv: no Parquet file; streaming reads Parquet alone.*mmcl data convert"):
        load(f"{csv}?streaming=true")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: no \.parquet file is there"):
        load(f"{tmp_path}/empty?streaming=true")
    with pytest.raises(DataError, match=r"there is no .*none\.parquet; wanted a \.parquet file"):
        load(f"{tmp_path}/none.parquet?streaming=true")
    with pytest.raises(ConfigError, match="buffer_mb goes with streaming=true"):
        load(f"{folder}?buffer_mb=3:train")
    with pytest.raises(ConfigError, match="streaming='maybe' is neither true nor false"):
        load(f"{folder}?streaming=maybe:train")
    (folder / "data" / "more.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"more\.parquet names no split and others do"):
        load(f"{folder}?streaming=true:train")
    (tmp_path / "empty" / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"bad\.parquet: no Parquet file, or a damaged one"):
        load(f"{tmp_path}/empty/bad.parquet?streaming=true")
    (tmp_path / "empty" / "bad.parquet").unlink()
    (folder / "data" / "more.parquet").unlink()
    pq.write_table(pa.table({"image": [b"x"], "caption": ["a"]}), folder / "data" / "train-2.parquet")
    with pytest.raises(DataError, match=r"train-2\.parquet: .*it has no column 'text'"):
        load(f"{folder}?streaming=true:train")


# -- the Hub ---------------------------------------------------------------------------------------------------------


def _hub_file(items, rows) -> bytes:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "sentences": datasets.List({"raw": datasets.Value("string"), "imgid": datasets.Value("int64")}),
            "label": datasets.ClassLabel(names=["dog", "red fox"]),
        }
    )
    made = {
        "image": [{"bytes": items[row % 6].png, "path": None} for row in rows],
        "sentences": [[{"raw": f"{row}", "imgid": row}, {"raw": f"{row}!", "imgid": row}] for row in rows],
        "label": [row % 3 - 1 for row in rows],
    }
    file = io.BytesIO()
    datasets.Dataset.from_dict(made, features=features).to_parquet(file, batch_size=4)
    return file.getvalue()


class FakeBuilder:
    """What `datasets` says of a repository's files."""

    def __init__(self, files: dict[str, list[str]], name: str = "default") -> None:
        self.config = self
        self.name = name
        self.data_files = {
            split: [f"hf://datasets/owner/name@{COMMIT}/{file}" for file in names] for split, names in files.items()
        }


@pytest.fixture
def hub(items, monkeypatch):
    """Two splits in Parquet; the server, with the client sent there."""
    files = {
        "data/train-0.parquet": _hub_file(items, range(8)),
        "data/train-1.parquet": _hub_file(items, range(8, 14)),
        "data/test-0.parquet": _hub_file(items, range(14, 18)),
    }
    splits = {"train": ["data/train-0.parquet", "data/train-1.parquet"], "test": ["data/test-0.parquet"]}
    import huggingface_hub
    from huggingface_hub import HfFileSystem

    with serve(files) as server:
        api = huggingface_hub.HfApi(endpoint=server.address)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(RowGroupReader, "RETRY_SECONDS", (0.0, 0.0))
        monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: FakeBuilder(splits))
        real = HubFiles.__init__
        monkeypatch.setattr(HubFiles, "__init__", lambda self, *args: real(self, *args, endpoint=server.address))
        HfFileSystem.clear_instance_cache()
        server.splits = splits
        yield server
    HfFileSystem.clear_instance_cache()


COLUMNS = {"text": "sentences.raw"}


def test_a_hub_data_set_is_streamed(hub, items):
    assert available_splits("owner/name?streaming=true") == ["train", "test"]
    assert hub.ranges == [], "splits are known without reading data"
    dataset = load("owner/name?streaming=true:train", columns=COLUMNS)
    assert dataset.column("texts") == [[f"{row}", f"{row}!"] for row in range(14)]
    assert dataset.column("label") == [None if row % 3 == 0 else ("dog", "red fox")[row % 3 - 1] for row in range(14)]
    before = len(hub.ranges)
    for row in (5, 4, 13, 12, 6):
        assert torch.equal(dataset.images.read(row), torch.from_numpy(items[row % 6].pixels).permute(2, 0, 1))
    assert dataset.images.reader.num_fetched == 2
    images = [(name, end - start) for name, start, end in hub.ranges[before:]]
    assert {name for name, _ in images} == {"data/train-0.parquet", "data/train-1.parquet"}
    assert dataset.images.describe(13) == "owner/name/data/train-1.parquet:row 5"


def test_the_light_columns_are_fetched_once(hub):
    first = load("owner/name?streaming=true:test", columns=COLUMNS)
    number = len(hub.ranges)
    again = load("owner/name?streaming=true:test", columns=COLUMNS)
    assert len(hub.ranges) == number, "kept under the cache folder by commit"
    assert again.table.equals(first.table)
    assert again.images.fingerprint() == first.images.fingerprint()
    assert again.images.blocks().tolist() == first.images.blocks().tolist()
    cached = list(Path(os.environ["MMCL_CACHE"]).glob("streamed/*"))
    assert [path.suffix for path in cached] == [".arrow"]
    cached[0].write_bytes(b"damaged")
    assert load("owner/name?streaming=true:test", columns=COLUMNS).table.equals(first.table)
    assert len(hub.ranges) > number


def test_a_line_that_breaks_in_the_middle(hub, items):
    dataset = load("owner/name?streaming=true:train", columns=COLUMNS)
    hub.failing = 1
    assert torch.equal(dataset.images.read(0), torch.from_numpy(items[0].pixels).permute(2, 0, 1))
    hub.files.pop("data/train-1.parquet")
    with pytest.raises(DataError, match=r"owner/name/data/train-1\.parquet:row 0: its row group cannot be read"):
        dataset.images.read(8)


def test_other_formats_are_streamed_from_the_hubs_copy(hub, items, monkeypatch, caplog):
    other = FakeBuilder({"train": ["train/shard-0.tar"]}, name="default")
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: other)
    hub.files.clear()
    hub.files |= {
        "default/partial-train/0000.parquet": _hub_file(items, range(4)),
        "default/test/0000.parquet": _hub_file(items, range(4, 6)),
        "second/test/0000.parquet": b"",
    }
    with caplog.at_level("WARNING", logger="mmcl"):
        assert available_splits("owner/name?streaming=true") == ["train", "test"]
    assert "holds only the first part of the split train" in caplog.text
    dataset = load("owner/name?streaming=true:test", columns=COLUMNS)
    assert dataset.column("texts") == [["4", "4!"], ["5", "5!"]]
    assert dataset.images.describe(0) == "owner/name/default/test/0000.parquet:row 0"
    with pytest.raises(DataError, match=r"no configuration 'third', only default, second; name one"):
        load("owner/name?streaming=true&config=third:test")
    with pytest.raises(DataError, match=r"owner/name@v1 holds no Parquet files, .* leave the revision or"):
        load("owner/name@v1?streaming=true:test")


def test_without_any_parquet_it_says_what_to_do(hub, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import RevisionNotFoundError

    other = FakeBuilder({"train": ["train/shard-0.tar"]})
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: other)
    api = huggingface_hub.HfApi()
    real = api.dataset_info

    def no_copy(path, revision=None, **kwargs):
        if revision == "refs/convert/parquet":
            error = RevisionNotFoundError.__new__(RevisionNotFoundError)
            raise error
        return real(path, revision=revision, **kwargs)

    monkeypatch.setattr(api, "dataset_info", no_copy)
    with pytest.raises(
        DataError, match=r"owner/name holds no Parquet files, and the Hub has made no .* to download it"
    ):
        load("owner/name?streaming=true:train")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"streaming reads from the Hub, and HF_HUB_OFFLINE is set"):
        load("owner/name?streaming=true:train")
