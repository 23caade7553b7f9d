from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from stored_items import write_tar

import mmcl.data.images
import mmcl.data.sources.shards.shard_index
from mmcl.data import available_splits, load
from mmcl.data.sources.shards.shards import expand_shards, read_shards
from mmcl.errors import DataError


def _members(items):
    members = {}
    for item in items:
        key = item.name.removesuffix(".png")
        members |= {f"{key}.png": item.png, f"{key}.txt": item.texts[0].encode()}
    return members


def test_braces_lists_and_stars(tmp_path, items):
    for name in ("a-08", "a-09", "a-10", "b-08"):
        write_tar(tmp_path / f"{name}.tar", _members(items[:1]))
    assert [path.stem for path in expand_shards(tmp_path / "a-{08..10}.tar")] == ["a-08", "a-09", "a-10"]
    assert [path.stem for path in expand_shards(tmp_path / "{a,b}-08.tar")] == ["a-08", "b-08"]
    assert [path.stem for path in expand_shards(tmp_path / "a-*.tar")] == ["a-08", "a-09", "a-10"]
    with pytest.raises(DataError, match=r"2 of 5 shards are missing, the first is .*a-11\.tar"):
        expand_shards(tmp_path / "a-{08..12}.tar")
    nested = expand_shards(tmp_path / "{a-{08..10..2},b-08}.tar")
    assert [path.stem for path in nested] == ["a-08", "a-10", "b-08"]
    (tmp_path / "in").mkdir()
    write_tar(tmp_path / "in" / "a-1.tar", _members(items[:1]))
    assert expand_shards(tmp_path / "i*" / "*.tar") == [tmp_path / "in" / "a-1.tar"], "stars in folders"
    write_tar(tmp_path / "c{1}.tar", _members(items[:1]))
    assert expand_shards(tmp_path / "c{1}.tar") == [tmp_path / "c{1}.tar"], "a file of that very name"
    with pytest.raises(DataError, match=r"braces are not closed"):
        expand_shards(tmp_path / "a-{08..10.tar")
    with pytest.raises(DataError, match="no file matches"):
        load(str(tmp_path / "d-*.tar"))
    with pytest.raises(DataError, match="only uncompressed"):
        load(str(tmp_path / "c-{00..10}.tar.gz"))


def test_text_label_and_json_members(tmp_path, items):
    members = {
        "x/a.png": items[0].png,
        "x/a.txt": b" from text\nof two lines ",
        "x/a.json": json.dumps({"caption": "from json", "width": 5}).encode(),
        "x/a.cls": b"3",
        "x/b.PNG": items[1].png,
        "x/b.json": json.dumps({"caption": "from json", "width": 6}).encode(),
        "x/.c.png": b"hidden",
        "x/d.png": items[2].png,
        "x/e.txt": b"no image",
        "x/f.png": items[3].png,
        "x/f.json": b"{broken",
    }
    path = write_tar(tmp_path / "one.tar", members)
    dataset = load(path)
    assert dataset.column("id") == ["x/a", "x/b"]
    assert dataset.column("texts") == [["from text\nof two lines"], ["from json"]]
    assert dataset.column("label") == ["3", None]
    assert dataset.column("width") == [5, 6]
    assert torch.equal(dataset.images.read(1), torch.from_numpy(items[1].pixels).permute(2, 0, 1))
    reasons = {row.source: row.reason for row in dataset.skipped}
    assert reasons[f"{path}:x/d"] == "no caption"
    assert reasons[f"{path}:x/e"].startswith("no image (jpg, ")
    assert "x/f.json cannot be read" in reasons[f"{path}:x/f"]
    assert set(reasons) == {f"{path}:x/{key}" for key in "def"}


def test_splits_by_name_and_by_folder(tmp_path, items):
    (tmp_path / "named").mkdir()
    for name, part in (("train-000", items[:2]), ("train-001", items[2:4]), ("val-000", items[4:])):
        write_tar(tmp_path / "named" / f"{name}.tar", _members(part))
    assert available_splits(tmp_path / "named") == ["train", "validation"]
    assert load(tmp_path / "named", split="train").column("id") == ["0", "1", "2", "3"]
    assert load(f"{tmp_path}/named/train-{{000..001}}.tar").column("id") == ["0", "1", "2", "3"]
    for split, part in (("train", items[:4]), ("test", items[4:])):
        (tmp_path / "folders" / split).mkdir(parents=True)
        write_tar(tmp_path / "folders" / split / "shard.tar", _members(part))
    assert load(f"{tmp_path}/folders:test").column("id") == ["4", "5"]


def test_headers_are_read_once(tmp_path, items, monkeypatch):
    path = write_tar(tmp_path / "a.tar", _members(items))
    first = load(path)
    indexes = list(Path(os.environ["MMCL_CACHE"]).glob("tar_index/*.arrow"))
    assert len(indexes) == 1
    scans = []
    scan = mmcl.data.sources.shards.shard_index.scan_shard
    counted = lambda *args, **kwargs: scans.append(args) or scan(*args, **kwargs)  # noqa: E731
    monkeypatch.setattr(mmcl.data.sources.shards.shard_index, "scan_shard", counted)
    assert load(path).fingerprint() == first.fingerprint()
    assert not scans
    indexes[0].write_bytes(b"damaged")
    assert load(path).column("texts") == first.column("texts")
    assert len(scans) == 1
    write_tar(path, _members(items[:3]))
    assert len(load(path)) == 3, "another size or time is another index"
    assert len(scans) == 2
    assert len(list(Path(os.environ["MMCL_CACHE"]).glob("tar_index/*"))) == 1, "it takes the place of the old one"


def test_an_index_of_equal_size_and_time_but_other_headers_is_stale(tmp_path, items):
    path = write_tar(tmp_path / "a.tar", _members(items))
    stat = path.stat()
    assert load(path).column("id")[0] == "0"
    other = {f"x{name}": data for name, data in _members(items).items()}
    write_tar(path, other)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert load(path).column("id")[0] == "x0"


def test_many_shards_are_indexed_with_progress_and_only_once(tmp_path, items):
    for number in range(12):
        write_tar(tmp_path / f"s-{number:02d}.tar", {f"{number}/{n}": d for n, d in _members(items[:2]).items()})
    told = []
    pattern = tmp_path / "s-{00..11}.tar"
    rows = read_shards(expand_shards(pattern), progress=lambda *args: told.append(args))
    assert told == [("indexing shards", done, 12) for done in range(1, 13)]
    assert rows.table["id"].to_pylist() == [f"{number}/{item}" for number in range(12) for item in range(2)]
    read_shards(expand_shards(pattern), progress=lambda *args: told.append(args))
    assert len(told) == 12
    assert load(pattern).images.blocks().tolist() == [number for number in range(12) for _ in range(2)]


def test_an_unwritable_cache_costs_only_time(tmp_path, items, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "file" / "below"))
    assert len(load(write_tar(tmp_path / "a.tar", _members(items)))) == 6


def test_a_shard_cut_short_loses_its_last_sample_alone(tmp_path, items):
    path = write_tar(tmp_path / "a.tar", _members(items))
    whole = path.read_bytes()
    cut = whole.index(items[4].png) + 10
    path.write_bytes(whole[:cut])
    dataset = load(path)
    assert dataset.column("id") == ["0", "1", "2", "3"]
    assert "cut short" in dataset.skipped[0].reason


def test_a_shard_that_vanishes_or_shrinks_names_the_member(tmp_path, items, monkeypatch):
    path = write_tar(tmp_path / "a.tar", _members(items))
    dataset = load(path)
    monkeypatch.setattr("mmcl.data.images.tars.MAX_OPEN_SHARDS", 0)
    assert torch.equal(dataset.images.read(0), torch.from_numpy(items[0].pixels).permute(2, 0, 1))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"a\.tar:5\.png: the shard ends inside this member"):
        dataset.images.read(5)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar:5\.png: No such file"):
        dataset.images.read(5)


def test_open_files_do_not_travel(tmp_path, items):
    store = load(write_tar(tmp_path / "a.tar", _members(items))).images
    before = store.read(2)
    copy = pickle.loads(pickle.dumps(store))
    assert copy._files == {}
    del store
    assert torch.equal(copy.read(2), before)


def test_corrupt_images_name_shard_and_member(tmp_path, items):
    path = write_tar(tmp_path / "a.tar", {"0.jpg": b"not an image", "0.txt": b"text", **_members(items[1:])})
    with pytest.raises(DataError, match=r"a\.tar:0\.jpg: not an image"):
        load(path).images.read(0)
