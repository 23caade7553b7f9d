from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as DatasetImage
from stored_items import write_csv, write_images, write_json_lines

import mmcl.data.sources.tables.tables
from mmcl.data import load
from mmcl.data.sources.tables.json_lines import read_json_lines
from mmcl.errors import DataError


@pytest.fixture
def folder(tmp_path, items):
    return write_images(tmp_path, items)


def _row(index: int, text: object = "a caption", **more: object) -> dict[str, object]:
    return {"file_name": f"{index}.png", "text": text, **more}


def test_blank_captions_and_file_names_are_skipped_with_their_lines(folder):
    rows = [_row(0), _row(1, " \t\u00a0"), "", _row(2, None), {"text": "no file"}, _row(3, "  trimmed \n"), _row(4, "")]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.column("texts") == [["a caption"], ["trimmed"]]
    assert dataset.column("id") == ["0.png", "3.png"]
    assert [(row.source.rsplit(":")[-1], row.reason) for row in dataset.skipped] == [
        ("2", "no caption"),
        ("4", "no caption"),
        ("5", "no image file named"),
        ("7", "no caption"),
    ]
    assert [row.row for row in dataset.skipped] == [1, 2, 3, 5]


def test_blank_captions_leave_their_list(folder):
    rows = [_row(0, ["one", " ", None, "two"]), _row(1, []), _row(2, None), _row(3, ["", "three"])]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.column("texts") == [["one", "two"], ["three"]]
    assert [row.row for row in dataset.skipped] == [1, 2]


def test_malformed_lines_are_skipped_with_file_and_line(folder):
    path = write_json_lines(
        folder / "t.jsonl", [_row(0), '{"file_name": "1.png", "te', "[1, 2]", _row(2), _row(3, " ")]
    )
    dataset = load(path)
    assert dataset.column("id") == ["0.png", "2.png"]
    assert [row.source for row in dataset.skipped] == [f"{path}:2", f"{path}:3", f"{path}:5"]
    assert "malformed JSON" in dataset.skipped[0].reason
    assert "a list, wanted an object" in dataset.skipped[1].reason


def test_lines_that_are_not_utf8_are_skipped(folder):
    path = folder / "t.jsonl"
    lines = [json.dumps(_row(index)).encode() for index in range(3)]
    path.write_bytes(lines[0] + b"\n" + lines[1].replace(b"caption", b"\xff") + b"\r\n" + lines[2])
    dataset = load(path)
    assert dataset.column("id") == ["0.png", "2.png"]
    assert dataset.skipped[0].source == f"{path}:2"


def test_keys_of_several_types_are_read(folder):
    rows = [_row(0, "one", label=1, extra={"a": 1}), _row(1, ["two", "three"], label="x", extra=[2])]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.column("texts") == [["one"], ["two", "three"]]
    assert dataset.column("label") == ["1", "x"]
    assert dataset.column("extra") == ['{"a": 1}', "[2]"]


def test_fast_and_line_exact_readers_agree(folder):
    rows = [_row(i, f"text {i}", label=i, tags=["a", "b"], nested={"de": "x"}, day="2024-01-02") for i in range(4)]
    fast = load(write_json_lines(folder / "fast.jsonl", rows))
    slow = load(write_json_lines(folder / "slow.jsonl", [*rows, "{broken", _row(5, ["a list"], label="x")]))
    assert slow.select(range(4)).table.to_pylist() == fast.table.to_pylist()
    assert slow.texts(4) == ["a list"]
    assert fast.column("day")[0] == "2024-01-02", "strings that look like dates stay strings"
    assert fast.column("label") == ["0", "1", "2", "3"]


def test_large_numbers_keep_their_digits(folder):
    rows = [_row(0, group=18446744073709551615), _row(1, group=18446744073709551614)]
    assert load(write_json_lines(folder / "t.jsonl", rows)).column("group") == [str(row["group"]) for row in rows]


def test_a_list_of_objects_and_a_byte_order_mark(folder):
    path = folder / "t.json"
    path.write_text("\ufeff" + json.dumps([_row(0), 3, _row(1)]), encoding="utf-8")
    assert load(path).column("id") == ["0.png", "1.png"]
    assert load(path).skipped[0].source == f"{path}:item 1"
    path = folder / "bom.jsonl"
    path.write_text("\ufeff" + json.dumps(_row(0)) + "\n{", encoding="utf-8")
    assert len(load(path)) == 1


def test_rows_with_the_wrong_number_of_fields_are_skipped(folder):
    path = folder / "t.csv"
    path.write_text('file_name,text\n0.png,"two\nlines"\n\n1.png,a,b\n2.png,\n3.png,"quoted, comma"\n')
    dataset = load(path)
    assert dataset.column("texts") == [["two\nlines"], ["quoted, comma"]]
    assert [(row.row, row.source, row.reason) for row in dataset.skipped] == [
        (1, f"{path}:5", "3 fields, wanted 2"),
        (2, f"{path}:6", "no caption"),
    ]


def test_csv_cells_stay_text(folder):
    path = write_csv(
        folder / "t.csv", [{"file_name": "0.png", "text": "1", "label": "007", "group": "", "day": "2024-01-02"}]
    )
    dataset = load(path)
    assert dataset.texts(0) == ["1"]
    assert dataset.value("label", 0) == "007"
    assert dataset.value("group", 0) is None
    assert not dataset.has("group")
    assert dataset.value("day", 0) == "2024-01-02"


def test_csv_rows_that_are_not_utf8_are_skipped(folder):
    path = folder / "t.csv"
    path.write_bytes(b"file_name,text\n0.png,good\n1.png,\xff\n2.png,caf\xc3\xa9\n")
    dataset = load(path)
    assert dataset.column("texts") == [["good"], ["café"]]
    assert [(row.source, row.reason) for row in dataset.skipped] == [(f"{path}:3", "not UTF-8")]


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_csv_is_an_error(folder, text):
    (folder / "t.csv").write_text(text)
    with pytest.raises(DataError, match="is empty"):
        load(folder / "t.csv")


def test_a_repeated_csv_column_is_an_error(folder):
    (folder / "t.csv").write_text("file_name,text,text\n0.png,a,b\n")
    with pytest.raises(DataError, match="'text' more than once"):
        load(folder / "t.csv")


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.parquet"])
def test_no_rows_is_an_error(folder, name):
    path = folder / name
    if name.endswith("csv"):
        path.write_text("file_name,text\n")
    elif name.endswith("jsonl"):
        path.write_text("")
    else:
        pq.write_table(pa.table({"file_name": pa.array([], pa.string()), "text": pa.array([], pa.string())}), path)
    with pytest.raises(DataError, match="no rows"):
        load(path)


def test_when_every_row_is_skipped_the_first_reasons_are_told(folder):
    path = write_json_lines(folder / "t.jsonl", [_row(index, "") for index in range(7)])
    with pytest.raises(DataError, match=rf"none of its 7 rows.*{path}:1: no caption.*and 2 more"):
        load(path)
    path = write_json_lines(folder / "b.jsonl", ["{", "{"])
    with pytest.raises(DataError, match=r"none of its 2 rows.*b\.jsonl:1: malformed JSON"):
        load(path)


def test_rows_of_one_image_become_one(folder):
    rows = [_row(0, "a", label="x"), _row(1, "b", label="x"), _row(0, "c", label="x"), _row(0, "d", label="y")]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.column("texts") == [["a", "c"], ["b"], ["d"]], "another label is another row"
    assert dataset.column("label") == ["x", "x", "y"]
    assert torch.equal(dataset.images.read(0), dataset.images.read(2))
    assert not torch.equal(dataset.images.read(0)[:, 0], dataset.images.read(1)[:, 0])


def test_tags_and_negatives_become_lists(folder):
    rows = [_row(0, tags="red, blue,", negatives="not, this"), _row(1, tags=None, negatives=None)]
    dataset = load(write_json_lines(folder / "t.jsonl", rows))
    assert dataset.column("tags") == [["red", "blue"], []]
    assert dataset.column("negatives") == [["not, this"], []]


def test_impossible_types_name_the_column(folder):
    path = write_json_lines(folder / "t.jsonl", [_row(0, {"en": "a"})])
    with pytest.raises(DataError, match=r"t\.jsonl: column 'text' holds struct"):
        load(path)
    assert load(path, columns={"text": "text.en"}).texts(0) == ["a"]
    path = write_json_lines(folder / "t.jsonl", [{"image": 3, "text": "a"}])
    with pytest.raises(DataError, match="the image column holds int64"):
        load(path)


def test_numbers_as_labels(folder):
    table = pa.table(
        {
            "file_name": ["0.png", "1.png"],
            "text": ["a", "b"],
            "label": [3.0, float("nan")],
            "group": pa.array(["g", "h"]).dictionary_encode(),
            "domain": [True, False],
        }
    )
    pq.write_table(table, folder / "t.parquet")
    dataset = load(folder / "t.parquet")
    assert dataset.column("label") == ["3", None]
    assert dataset.column("group") == ["g", "h"]
    assert dataset.column("domain") == ["true", "false"]


def test_damaged_parquet_is_an_error(folder):
    (folder / "t.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="no Parquet file"):
        load(folder / "t.parquet")


def test_large_parquet_images_are_memory_mapped(stored, items, monkeypatch, tmp_path):
    monkeypatch.setattr(mmcl.data.sources.tables.tables, "MAX_BYTES_IN_MEMORY", 10)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    for kind in ("parquet_structs", "parquet_bytes"):
        dataset = load(stored[kind])
        assert type(dataset.images).__name__ == "DatasetImages"
        assert torch.equal(dataset.images.read(2), torch.from_numpy(items[2].pixels).permute(2, 0, 1))
        assert dataset.column("label") == [item.label for item in items]
        assert dataset.texts(1) == items[1].texts


def test_null_images_are_skipped_and_paths_stand_in_for_bytes(folder, items):
    images = [{"bytes": items[0].png, "path": None}, {"bytes": None, "path": "1.png"}, None]
    pq.write_table(pa.table({"image": images, "text": ["a", "b", "c"]}), folder / "t.parquet")
    dataset = load(folder / "t.parquet")
    assert [row.reason for row in dataset.skipped] == ["no image file named"]
    assert dataset.images.read(0).shape == (3, 4, 5)
    assert dataset.images.read(1).shape == (3, 5, 5)


def test_many_rows_use_the_fast_reader(folder, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the line-exact reader ran")

    monkeypatch.setattr("mmcl.data.sources.tables.json_lines._check_lines", refuse)
    path = folder / "t.jsonl"
    path.write_text("".join(f'{{"file_name": "{i}.png", "text": "picture {i}"}}\n' for i in range(100_000)))
    assert len(read_json_lines(path)) == 100_000
    assert load(path).texts(99_999) == ["picture 99999"]


def test_class_labels_of_datasets_are_read_by_name(tmp_path, items):
    features = Features({"image": DatasetImage(), "text": Value("string"), "label": ClassLabel(names=["cat", "dog"])})
    cells = {
        "image": [{"bytes": item.png, "path": None} for item in items[:3]],
        "text": ["a", "b", "c"],
        "label": [1, 0, -1],
    }
    Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "a.parquet")
    assert load(tmp_path / "a.parquet").column("label") == ["dog", "cat", None]
    plain = pa.table({"image": ["0.png"] * 2, "text": ["a", "b"], "label": [1, 0]})
    pq.write_table(plain, tmp_path / "plain.parquet")
    assert load(tmp_path / "plain.parquet").column("label") == ["1", "0"]  # nobody says what the numbers mean
