from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_items import write_csv, write_images, write_json_lines

from mmcl.data import available_splits, load
from mmcl.errors import DataError


@pytest.fixture
def folder(tmp_path, items):
    return write_images(tmp_path, items)


def _table(folder, items, image: str, text: str, **more):
    rows = [{image: item.name, text: item.texts[0], **more} for item in items]
    return write_json_lines(folder / "t.jsonl", rows)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("Image", "Caption"), ("IMAGE_PATH", "TEXT"), ("image_name", "comment"), ("img", "sentence"),
        ("Image Path", "captions"), ("file-path", "txt"), ("filename", "caption"), ("image_file_name", "Texts"),
    ],
)  # fmt: skip
def test_common_names_in_any_case_are_taken_and_told(folder, items, image, text, caplog):
    caplog.set_level(logging.INFO, logger="mmcl")
    dataset = load(_table(folder, items, image, text, width=3))
    assert dataset.column("texts") == [[item.texts[0]] for item in items]
    assert dataset.images.read(2).shape == (3, 6, 5)
    assert dataset.column("width") == [3] * 6
    said = [record.getMessage() for record in caplog.records if "column" in record.getMessage()]
    assert len(said) == 1
    assert f"{image!r} as image" in said[0]
    assert f"{text!r} as text" in said[0]
    usual = {"filename", "caption"}
    assert caplog.records[-1].levelno == (logging.INFO if {image, text} <= usual else logging.WARNING)


def test_own_names_are_not_told(folder, items, caplog):
    caplog.set_level(logging.INFO, logger="mmcl")
    load(_table(folder, items, "image", "text", label="x"))
    assert not [record for record in caplog.records if "column" in record.getMessage()]


def test_own_names_win_over_others(folder, items):
    rows = [{"image": i.name, "path": "p", "text": i.texts[0], "caption": "c", "file_name": "f"} for i in items]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.texts(0) == [items[0].texts[0]]
    assert dataset.column("caption") == ["c"] * 6
    assert dataset.column("path") == ["p"] * 6
    rows = [{"file_name": i.name, "path": "p", "texts": [i.texts[0]], "caption": "c"} for i in items]
    assert load(write_json_lines(folder / "t.jsonl", rows)).images.read(0).shape == (3, 4, 5)


def test_what_may_be_meant_twice_is_an_error(folder, items):
    path = _table(folder, items, "path", "caption", image_path="x", Sentence="y")
    with pytest.raises(
        DataError, match=r"several columns that may be 'image': 'path', 'image_path'; .*columns\.image=path"
    ):
        load(path)
    with pytest.raises(DataError, match=r"may be 'text': 'caption', 'Sentence'; say which with data\.columns\.text"):
        load(path, columns={"image": "path"})
    dataset = load(path, columns={"image": "path", "text": "Sentence"})
    assert dataset.texts(0) == ["y"]
    path = _table(folder, items, "Image", "caption", IMAGE="x")
    with pytest.raises(DataError, match="'Image', 'IMAGE'"):
        load(path)
    path = _table(folder, items, "image", "caption", Label="a", LABEL="b")
    with pytest.raises(DataError, match="may be 'label': 'Label', 'LABEL'"):
        load(path)


def test_the_column_with_the_images_wins_over_names(folder, items):
    table = pa.table({"jpg": [i.png for i in items], "path": ["x"] * 6, "caption": [i.texts[0] for i in items]})
    pq.write_table(table, folder / "t.parquet")
    dataset = load(folder / "t.parquet")
    assert dataset.images.read(1).shape == (3, 5, 5)
    assert dataset.column("path") == ["x"] * 6


def test_img2dataset_parquet(folder, items):
    rows = [
        {"jpg": i.png, "caption": i.texts[0], "key": f"{n:09d}", "url": f"https://x.org/{n}", "similarity": 0.3}
        for n, i in enumerate(items)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "00000.parquet")
    dataset = load(folder / "00000.parquet")
    assert dataset.column("id") == [f"{n:09d}" for n in range(6)]
    assert dataset.column("similarity") == [0.3] * 6


@pytest.mark.parametrize("name", ["URL", "url", "image_url"])
def test_addresses_are_no_images(folder, name):
    pq.write_table(pa.table({name: ["https://x.org/1"], "TEXT": ["a"], "similarity": [0.3]}), folder / "t.parquet")
    with pytest.raises(DataError, match=rf"addresses of images \(column '{name}'\) and no images.*img2dataset"):
        load(folder / "t.parquet")


def test_conceptual_captions_without_a_header(folder):
    path = folder / "Train_GCC-training.tsv"
    path.write_text("a very typical bus station\thttp://lh6.ggpht.com/bus.jpg\nsierra looked\thttp://x.org/2.jpg\n")
    with pytest.raises(DataError, match=r"no header line, and lists addresses of images \(http://lh6.*img2dataset"):
        load(path)


def test_a_table_without_a_header(folder):
    (folder / "t.csv").write_text("0.png,a caption\n1.png,another\n")
    with pytest.raises(DataError, match=r"t\.csv has no header line: its first line names an image \(0\.png\)"):
        load(folder / "t.csv")


def test_a_likely_name_is_offered_but_not_taken(folder, items):
    with pytest.raises(DataError, match=r"no column for 'text'.*data\.columns\.text=Title"):
        load(_table(folder, items, "image", "Title"))


def test_a_split_column_in_any_case(folder, items):
    rows = [{"Image": i.name, "Text": i.texts[0], "Split": ("Train", "val")[n % 2]} for n, i in enumerate(items)]
    path = write_csv(folder / "t.csv", rows)
    assert available_splits(path) == ["train", "validation"]
    assert load(f"{path}:val").column("split") == ["validation"] * 3


FLICKR_RESULTS = """image_name| comment_number| comment
0.png| 0| Two young guys with " shaggy " hair .
0.png| 1|   Two young , White males are outside .
1.png| 4   A dog runs across the grass .
1.png| 0| "Hey" says a man , in "quotes" .
"""


def test_flickr30k_results(tmp_path, items, caplog):
    write_images(tmp_path / "flickr30k_images", items)
    (tmp_path / "results.csv").write_text(FLICKR_RESULTS)
    dataset = load(tmp_path)
    assert dataset.texts(0) == ['Two young guys with " shaggy " hair .', "Two young , White males are outside ."]
    assert dataset.texts(1) == ['"Hey" says a man , in "quotes" .']
    assert dataset.images.read(1).shape == (3, 5, 5)
    assert [(row.source, row.reason) for row in dataset.skipped] == [
        (f"{tmp_path}/results.csv:4", "2 fields, wanted 3")
    ]
    assert "results.csv is read" in caplog.text
    assert "separated by '|'" in caplog.text
    assert "'image_name' as image, 'comment' as text" in caplog.text
    assert f"its images are in {tmp_path}/flickr30k_images" in caplog.text
    assert load(tmp_path / "results.csv").column("texts") == dataset.column("texts")


@pytest.mark.parametrize("name", ["results_20130124.token", "Flickr8k.token.txt"])
def test_flickr_tokens(tmp_path, items, name):
    write_images(tmp_path / "flickr30k-images", items)
    (tmp_path / name).write_bytes(
        b'0.png#0\tA man in "green .\n0.png#1\tA man , again .\r\n1.png#0\tcaf\xc3\xa9\n2.png#0 no tab\n'
    )
    dataset = load(tmp_path)
    assert dataset.column("texts") == [['A man in "green .', "A man , again ."], ["café"]]
    assert dataset.column("id") == ["0.png", "1.png"]
    assert dataset.images.read(0).shape == (3, 4, 5)
    assert [(row.source, row.reason) for row in dataset.skipped] == [(f"{tmp_path / name}:4", "1 fields, wanted 2")]


def test_flickr8k_captions(tmp_path, items):
    write_images(tmp_path / "Images", items)
    (tmp_path / "captions.txt").write_text('image,caption\n0.png,one\n0.png,"two, quoted"\n1.png,three\n')
    assert load(tmp_path).column("texts") == [["one", "two, quoted"], ["three"]]
    (tmp_path / "notes.txt").write_text("some notes")
    with pytest.raises(DataError, match="no list of captions"):
        load(tmp_path / "notes.txt")


def test_images_in_two_folders_are_not_guessed(tmp_path, items, caplog):
    for name in ("a", "b"):
        write_images(tmp_path / name, items)
    dataset = load(_table(tmp_path, items, "image", "text"))
    assert "its images are in" not in caplog.text
    with pytest.raises(DataError, match=f"{tmp_path}/0.png: no such image file"):
        dataset.images.read(0)
    assert load(tmp_path / "t.jsonl", images=tmp_path / "b").images.read(0).shape == (3, 4, 5)
