from __future__ import annotations

import base64
import io
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from stored_items import encode, write_csv, write_images, write_json_lines

from mmcl.data import load
from mmcl.data.images.base64_text import Base64Images, decode_base64, find_base64
from mmcl.data.images.files import FileImages
from mmcl.errors import DataError

KINDS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _expected(item) -> torch.Tensor:
    return torch.from_numpy(item.pixels).permute(2, 0, 1)


@pytest.mark.parametrize("how", ["plain", "uri", "urlsafe", "lines", "unpadded"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_images_as_text_in_every_table(tmp_path, items, how, suffix):
    written = {
        "plain": _text,
        "uri": lambda data: f"data:image/png;base64,{_text(data)}",
        "urlsafe": lambda data: base64.urlsafe_b64encode(data).decode(),
        "lines": lambda data: base64.encodebytes(data).decode(),
        "unpadded": lambda data: _text(data).rstrip("="),
    }[how]
    rows = [{"image": written(item.png), "text": item.texts[0], "label": item.label} for item in items]
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        write_csv(path, rows)
    elif suffix == "jsonl":
        write_json_lines(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    dataset = load(path)
    assert dataset.skipped == []
    for row, item in enumerate(items):
        assert dataset.images.encoded(row) == item.png
        assert torch.equal(dataset.images.read(row), _expected(item))
    assert dataset.images.read(0).shape != dataset.images.read(1).shape, "control: other images differ"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 40])
def test_every_format_is_known_by_its_beginning(tmp_path, kind, size):
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), kind)
    found = find_base64(pa.chunked_array([[_text(data), "a/b.jpg", None]]), root=tmp_path)
    assert found.tolist() == [True, False, False]


PATHS = [
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5",
    "/9j/" + "abcd/" * 30 + "image",
    "Qk" + "long_name_of_a_folder/" * 6 + "image",
    "SUkqA" + "x" * 59,
    "R0lGOD" + "folder/" * 20,
    "iVBORw0KGgoAAAA.png",
    "UklGR" + "A" * 80 + ".webp",
]


def test_paths_are_never_taken_for_images(tmp_path):
    cells = pa.chunked_array([[path for path in PATHS if not path.startswith("SUkqA")]])
    assert not find_base64(cells, root=tmp_path).any()
    for cell in cells.to_pylist():
        assert isinstance(
            load(write_json_lines(tmp_path / "t.jsonl", [{"image": cell, "text": "a"}])).images, FileImages
        )


def test_a_file_of_that_name_makes_it_a_path(tmp_path, items):
    name = _text(encode(Image.new("RGB", (1, 1)), "GIF"))
    assert "/" not in name
    rows = [{"image": name, "text": "a"}]
    assert isinstance(load(write_json_lines(tmp_path / "t.jsonl", rows)).images, Base64Images)
    (tmp_path / name).write_bytes(items[2].png)
    dataset = load(tmp_path / "t.jsonl")
    assert isinstance(dataset.images, FileImages)
    assert torch.equal(dataset.images.read(0), _expected(items[2]))


def test_paths_and_text_in_one_column(tmp_path, items):
    write_images(tmp_path, items[:1])
    cells = [
        items[0].name,
        _text(items[1].png),
        None,
        "none.png",
        _text(items[2].png)[:-9] + "!",
        _text(b"no image" * 600),
    ]
    rows = [{"image": cell, "text": f"row {n}"} for n, cell in enumerate(cells)]
    dataset = load(write_json_lines(tmp_path / "t.jsonl", rows))
    assert [row.reason for row in dataset.skipped] == ["no image file named"]
    assert torch.equal(dataset.images.read(0), _expected(items[0]))
    assert torch.equal(dataset.images.read(1), _expected(items[1]))
    with pytest.raises(DataError, match=r"none\.png: no such image file"):
        dataset.images.read(2)
    with pytest.raises(DataError):
        dataset.images.read(3)
    with pytest.raises(DataError, match=r"t\.jsonl:row 5: "):
        dataset.images.read(4)
    assert dataset.images.describe(0) == os.path.join(tmp_path, items[0].name)


@pytest.mark.parametrize(
    ("text", "message"),
    [("data:image/png,abc", "without ';base64,'"), ("data:image/png;base64,a*b=", "no base64"), ("abcde", "no base64")],
)
def test_text_that_is_none_is_an_error(text, message):
    with pytest.raises(DataError, match=f"row 3: .*{message}"):
        decode_base64(text, source="row 3")


def test_selection_pickling_and_fingerprint(tmp_path, items):
    rows = [{"image": _text(item.png), "text": item.texts[0]} for item in items]
    dataset = load(write_json_lines(tmp_path / "t.jsonl", rows))
    chosen = pickle.loads(pickle.dumps(dataset.select([4, 0])))
    assert chosen.images.encoded(0) == items[4].png != items[0].png == chosen.images.encoded(1)
    assert chosen.images.describe(0) == dataset.images.describe(4)
    same = load(tmp_path / "t.jsonl").fingerprint()
    assert same == dataset.fingerprint() != chosen.fingerprint()


def test_large_text_columns_are_memory_mapped(tmp_path, monkeypatch):
    import mmcl.data.sources.tables.tables

    monkeypatch.setattr(mmcl.data.sources.tables.tables, "MAX_BYTES_IN_MEMORY", 10_000)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3), dtype=np.uint8)
    encoded = [encode(Image.fromarray(image)) for image in pixels]
    table = pa.table({"image": [_text(data) for data in encoded], "text": ["a", "b", "c"], "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    dataset = load(tmp_path / "t.parquet")
    assert list(tmp_path.glob("cache/**/*.arrow")), "read through a memory-mapped copy"
    assert [dataset.images.encoded(row) for row in range(3)] == encoded
    assert Image.open(io.BytesIO(dataset.images.encoded(1))).size == (60, 60)


def test_addresses_are_refused_with_a_way_out(tmp_path):
    rows = [{"image": f"https://example.org/{n}.jpg", "text": "a"} for n in range(2)]
    with pytest.raises(
        DataError, match=r"holds addresses \(https://example.org/0\.jpg\).*does not download.*img2dataset"
    ):
        load(write_json_lines(tmp_path / "t.jsonl", rows))
    dataset = load(write_json_lines(tmp_path / "t.jsonl", [*rows, {"image": "a.png", "text": "b"}]))
    assert [row.reason for row in dataset.skipped] == ["the address of an image, which mmcl does not download"] * 2
    assert [row.source for row in dataset.skipped] == [f"{tmp_path}/t.jsonl:1", f"{tmp_path}/t.jsonl:2"]
    assert dataset.column("id") == ["a.png"]
