"""Captions, labels and columns of shards, and agreement with the webdataset library."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import webdataset
from stored_items import write_tar

from mmcl.data import load
from mmcl.data.images.encoded import encoded_image
from mmcl.errors import DataError


def test_several_captions_in_json_go_before_the_text_file(tmp_path, items):
    members = {}
    for key, name, value in (
        ("a", "text", ["one", "two"]),
        ("b", "text", "of json"),
        ("c", "text", []),
        ("d", "text", ["one"]),
    ):
        members |= {f"{key}.png": items[0].png, f"{key}.json": json.dumps({name: value}).encode()}
        members |= {f"{key}.txt": f"file {key}\nsecond line".encode()}
    members |= {"e.png": items[0].png, "e.json": b'{"text": "of json alone"}'}
    assert load(write_tar(tmp_path / "a.tar", members)).column("texts") == [
        ["one", "two"],
        ["file b\nsecond line"],
        ["file c\nsecond line"],
        ["file d\nsecond line"],
        ["of json alone"],
    ]


@pytest.mark.parametrize("name", ["text", "texts", "caption", "captions"])
def test_lists_of_captions_under_every_name(tmp_path, items, name):
    members = {}
    for key in "ab":
        members |= {f"{key}.jpg": items[0].png, f"{key}.json": json.dumps({name: [key, "other"]}, indent=2).encode()}
    assert load(write_tar(tmp_path / "a.tar", members)).column("texts") == [["a", "other"], ["b", "other"]]


def test_img2dataset_shards(tmp_path, items):
    members = {}
    for row, item in enumerate(items[:3]):
        key = f"0000{row:05d}"
        about = {"caption": f"caption {row}", "url": f"https://x/{row}", "key": key, "status": "success", "sha256": "0"}
        about |= {"error_message": None, "width": 5, "height": 4, "exif": "{}"}
        members |= {f"{key}.jpg": item.png, f"{key}.txt": f"caption {row}".encode()}
        members[f"{key}.json"] = json.dumps(about, indent=4).encode()
    members["000000009.json"] = json.dumps({"status": "failed_to_download", "caption": "x"}).encode()
    path = write_tar(tmp_path / "00000.tar", members)
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "00000.parquet").write_bytes(b"")
    dataset = load(tmp_path)
    assert dataset.column("texts") == [["caption 0"], ["caption 1"], ["caption 2"]]
    assert dataset.column("sha256") == ["0"] * 3
    assert dataset.column("url")[2] == "https://x/2"
    assert dataset.skipped[0].source == f"{path}:000000009"
    assert dataset.skipped[0].reason.endswith("its status is 'failed_to_download'")


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"])
def test_image_extensions(tmp_path, items, extension):
    members = {f"x.y/k.{extension}": items[0].png, "x.y/k.txt": b"text", "x.y/k.seg.png": b"a mask", "x.y/n.npy": b""}
    dataset = load(write_tar(tmp_path / "a.tar", members))
    assert dataset.column("id") == ["x.y/k"]
    assert encoded_image(dataset.images, 0) == items[0].png


def test_class_names_and_numbers(tmp_path, items):
    named = {"a.png": items[0].png, "a.cls": b"red_fox", "b.png": items[1].png, "b.cls": b"dog"}
    dataset = load(write_tar(tmp_path / "named.tar", named))
    assert dataset.column("label") == ["red_fox", "dog"]
    assert dataset.column("texts") == [["red fox"], ["dog"]]
    root = tmp_path / "root"
    (root / "test").mkdir(parents=True)
    path = write_tar(root / "test" / "0.tar", {**named, "a.cls": b"1", "b.cls": b"0"})
    with pytest.raises(DataError, match=r"labels, which are numbers, and no captions; put a classnames\.txt"):
        load(path)
    (root / "classnames.txt").write_text("zebra\n")
    with pytest.raises(DataError, match=r"classnames\.txt has 1 lines, and .*0\.tar the label 1"):
        load(path)
    (root / "classnames.txt").write_text("zebra\nbrown_bear\n")
    assert load(f"{root}:test").column("label") == ["brown_bear", "zebra"]
    assert load(path).column("texts") == [["brown bear"], ["zebra"]]


def test_labels_of_json_fill_those_of_cls(tmp_path, items):
    members = {"a.png": items[0].png, "a.cls": b"3", "a.txt": b"x", "b.png": items[0].png, "b.txt": b"y"}
    members["b.json"] = b'{"label": 4}'
    assert load(write_tar(tmp_path / "a.tar", members)).column("label") == ["3", "4"]


def _samples(items, count):
    for row in range(count):
        item = items[row % len(items)]
        about = {"width": item.pixels.shape[1], "note": "a\u00e9 " * row}
        yield {"__key__": f"deep/{row:04d}", "png": item.png, "txt": f"caption {row}", "json": about, "cls": row % 3}


def _expected(paths):
    """What webdataset reads, in its order."""
    read = webdataset.WebDataset(paths, shardshuffle=False, nodesplitter=webdataset.single_node_only)
    return [(sample["__key__"], sample["png"], sample["txt"].decode(), sample["cls"].decode()) for sample in read]


def _ours(dataset):
    return [
        (dataset.value("id", row), encoded_image(dataset.images, row), *dataset.texts(row), dataset.value("label", row))
        for row in range(len(dataset))
    ]


def test_what_webdataset_writes_is_read_as_webdataset_reads_it(tmp_path, items):
    with webdataset.ShardWriter(str(tmp_path / "s-%03d.tar"), maxcount=4, verbose=0) as writer:
        for sample in _samples(items, 10):
            writer.write(sample)
    paths = [str(tmp_path / f"s-{number:03d}.tar") for number in range(3)]
    dataset = load(tmp_path / "s-{000..002}.tar")
    assert _ours(dataset) == _expected(paths)
    assert _ours(dataset) != _expected(paths[::-1]), "a control: the order of shards counts"
    assert _ours(load(tmp_path / "s-{002,001,000}.tar")) == _expected(paths[::-1])
    assert dataset.column("note")[3] == "a\u00e9 " * 3
    assert dataset.skipped == []


def test_keys_that_come_again_are_samples_of_their_own_as_in_webdataset(tmp_path, items):
    path = tmp_path / "again.tar"
    with tarfile.open(path, "w") as tar:
        for row, key in enumerate(["a", "b", "a", "__notes__", "c"]):
            for suffix, data in (("png", items[row].png), ("txt", f"caption {row}".encode()), ("cls", b"1")):
                name = f"__notes__/x.{suffix}" if key == "__notes__" else f"./{key}.{suffix}"
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    dataset = load(path)
    assert dataset.column("id") == ["./a", "./b", "./a", "./c"]
    assert _ours(dataset) == _expected([str(path)])
