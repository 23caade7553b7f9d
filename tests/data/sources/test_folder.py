from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_items import write_csv, write_images, write_json_lines

from mmcl.data import available_splits, load
from mmcl.errors import DataError


def _rows(items):
    return [{"file_name": item.name, "text": item.texts[0]} for item in items]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_metadata_of_every_kind(tmp_path, items, suffix):
    path = write_images(tmp_path, items) / f"metadata.{suffix}"
    if suffix == "jsonl":
        write_json_lines(path, _rows(items))
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(_rows(items)), path)
    else:
        write_csv(path, _rows(items), "\t" if suffix == "tsv" else ",")
    dataset = load(tmp_path)
    assert dataset.column("id") == [item.name for item in items]
    assert dataset.images.read(3).shape == (3, 7, 5)


def test_split_folders_under_any_of_their_names(tmp_path, items):
    for name, part in (("train", items[:3]), ("val", items[3:5]), ("test", items[5:])):
        write_json_lines(write_images(tmp_path / name, part) / "metadata.jsonl", _rows(part))
    assert available_splits(tmp_path) == ["train", "validation", "test"]
    assert available_splits(f"{tmp_path}:test") == ["train", "validation", "test"]
    for asked in ("validation", "val", "valid", "dev"):
        assert load(tmp_path, split=asked).column("id") == ["3.png", "4.png"]
    assert len(load(f"{tmp_path}:train")) == 3
    assert load(tmp_path / "val").column("id") == ["3.png", "4.png"]
    with pytest.raises(DataError, match="several splits"):
        load(tmp_path)
    (tmp_path / "valid").mkdir()
    with pytest.raises(DataError, match="val and valid are both the split validation"):
        load(f"{tmp_path}:train")


def test_the_only_split_needs_no_name(tmp_path, items):
    write_json_lines(write_images(tmp_path / "test", items) / "metadata.jsonl", _rows(items))
    assert len(load(tmp_path)) == 6
    with pytest.raises(DataError, match="no split 'train'; it has test"):
        load(tmp_path, split="train")


def test_one_metadata_file_above_split_folders(tmp_path, items):
    rows = []
    for name, part in (("train", items[:4]), ("test", items[4:])):
        write_images(tmp_path / name, part)
        rows += [{"file_name": f"{name}/{item.name}", "text": item.texts[0]} for item in part]
    write_json_lines(tmp_path / "metadata.jsonl", rows)
    assert available_splits(tmp_path) == ["train", "test"]
    assert load(f"{tmp_path}:test").column("id") == ["test/4.png", "test/5.png"]
    assert load(f"{tmp_path}:test").images.read(0).shape == (3, 8, 5)


def test_tables_named_by_split(tmp_path, items):
    write_images(tmp_path, items)
    write_json_lines(tmp_path / "train.jsonl", _rows(items[:4]))
    write_csv(tmp_path / "test-00000-of-00002.csv", _rows(items[4:5]))
    write_csv(tmp_path / "test-00001-of-00002.csv", [{"file_name": "x.png", "text": " "}, *_rows(items[5:])])
    assert available_splits(tmp_path) == ["train", "test"]
    dataset = load(f"{tmp_path}:test")
    assert dataset.column("id") == ["4.png", "5.png"]
    assert [row.source for row in dataset.skipped] == [f"{tmp_path}/test-00001-of-00002.csv:2"]


def test_tables_in_a_data_folder(tmp_path, items):
    (tmp_path / "data").mkdir()
    table = pa.table({"image": [item.png for item in items], "text": [item.texts for item in items]})
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    assert load(tmp_path).images.read(5).shape == (3, 9, 5)


def test_sidecars_give_a_caption_a_line(tmp_path, items):
    write_images(tmp_path / "deep" / "er", items)
    (tmp_path / "deep" / "er" / "0.txt").write_text("one\n\n two \n")
    (tmp_path / "deep" / "er" / "1.txt").write_text("  \n")
    (tmp_path / "deep" / "er" / "2.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep" / ".hidden.png").write_bytes(items[0].png)
    dataset = load(tmp_path)
    assert dataset.column("texts") == [["one", "two"]]
    reasons = {row.source.rpartition("/")[2]: row.reason for row in dataset.skipped}
    assert reasons["1.png"] == "no caption"
    assert "cannot be read" in reasons["2.txt"]
    assert reasons["5.png"] == "no caption file deep/er/5.txt"


def test_one_folder_a_class(tmp_path, items):
    write_images(tmp_path / "red_fox", items[:2])
    write_images(tmp_path / "ice-cream" / "deeper", items[2:5])
    (tmp_path / "stray.png").write_bytes(items[5].png)
    dataset = load(tmp_path)
    assert dataset.column("label") == ["ice-cream"] * 3 + ["red_fox"] * 2
    assert dataset.texts(0) == ["ice cream"]
    assert dataset.texts(4) == ["red fox"]
    assert dataset.skipped[0].reason == "outside every class folder"


def test_a_class_may_be_called_train(tmp_path, items):
    for name in ("car", "train", "bus"):
        write_images(tmp_path / name, items)
    assert sorted(set(load(tmp_path).column("label"))) == ["bus", "car", "train"]


def test_class_folders_inside_split_folders(tmp_path, items):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write_images(tmp_path / split / name, items[:2])
    dataset = load(f"{tmp_path}:test")
    assert dataset.column("label") == ["cat", "cat", "dog", "dog"]


def test_folders_without_data_say_what_was_wanted(tmp_path, items):
    with pytest.raises(DataError, match=f"{tmp_path} holds no data that mmcl can read: no metadata.jsonl"):
        load(tmp_path)
    (tmp_path / "0.png").write_bytes(items[0].png)
    with pytest.raises(DataError, match=r"1 images without captions; add a metadata\.jsonl, a \.txt .*0\.txt"):
        load(tmp_path)


def test_the_folder_above_a_data_set_is_no_class_folder(tmp_path, items):
    for split in ("train", "test"):
        write_json_lines(write_images(tmp_path / "emoji" / split, items) / "metadata.jsonl", _rows(items))
    with pytest.raises(DataError, match=f"did you mean {tmp_path}/emoji\\?"):
        load(tmp_path)


def test_metadata_above_nested_folders(tmp_path, items):
    rows = []
    for index, item in enumerate(items):
        place = f"a{index % 2}/b{index % 3}"
        write_images(tmp_path / place, [item])
        rows.append({"file_name": f"{place}/{item.name}", "text": item.texts[0]})
    write_csv(tmp_path / "Metadata.CSV", rows)
    dataset = load(tmp_path)
    assert [dataset.images.read(row).shape[1] for row in range(6)] == [4, 5, 6, 7, 8, 9]


def test_of_two_metadata_files_the_one_that_is_read_is_told(tmp_path, items, caplog):
    write_images(tmp_path, items)
    write_csv(tmp_path / "metadata.csv", _rows(items[:2]))
    write_json_lines(tmp_path / "metadata.jsonl", _rows(items))
    assert len(load(tmp_path)) == 6
    assert "metadata.jsonl is read, metadata.csv is not" in caplog.text


def test_missing_images_are_found_when_they_are_read(tmp_path, items):
    write_json_lines(write_images(tmp_path, items[:3]) / "metadata.jsonl", _rows(items))
    dataset = load(tmp_path)
    assert len(dataset) == 6
    assert dataset.images.read(2).shape == (3, 6, 5)
    with pytest.raises(DataError, match=f"{tmp_path}/3.png: no such image file"):
        dataset.images.read(3)


def test_upper_case_suffixes_hidden_files_and_marks(tmp_path, items):
    for index, item in enumerate(items[:4]):
        (tmp_path / f"{index}.PNG").write_bytes(item.png)
    (tmp_path / "0.TXT").write_text("\ufeffcafé\n", encoding="utf-8")
    (tmp_path / "1.txt").write_text("café\n", encoding="utf-16")
    (tmp_path / "2.txt").write_bytes(b"caf\xe9")
    (tmp_path / "3.Txt").write_bytes(b"plain")
    (tmp_path / "._0.png").write_bytes(b"resource fork")
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails" / "0.png").write_bytes(items[0].png)
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "0.png").write_bytes(items[0].png)
    dataset = load(tmp_path)
    assert dataset.column("texts") == [["café"], ["café"], ["plain"]]
    assert [(row.source, row.reason[:29]) for row in dataset.skipped] == [
        (f"{tmp_path}/2.txt", "cannot be read: not UTF-8 ('u")
    ]
    assert load(f"{tmp_path}?encoding=latin-1").texts(2) == ["café"]


def test_captions_in_another_encoding_throughout_are_an_error(tmp_path, items):
    for index in range(20):
        (tmp_path / f"{index:02}.png").write_bytes(items[0].png)
        (tmp_path / f"{index:02}.txt").write_bytes(b"caf\xe9" if index < 10 else b"tea")
    with pytest.raises(
        DataError, match=r"10 of 20 caption files are not UTF-8, the first is .*00\.txt.*encoding=cp1252"
    ):
        load(tmp_path)
    assert load(f"{tmp_path}?encoding=cp1252").texts(0) == ["café"]


def test_links_are_followed_once(tmp_path, items):
    outside = write_images(tmp_path / "elsewhere", items[:3])
    folder = tmp_path / "data"
    write_images(folder / "cat", items[3:5])
    (folder / "dog").symlink_to(outside, target_is_directory=True)
    (folder / "cat" / "linked.png").symlink_to(outside / "0.png")
    (folder / "cat" / "loop").symlink_to(folder, target_is_directory=True)
    dataset = load(folder)
    assert sorted(dataset.column("label")) == ["cat"] * 3 + ["dog"] * 3
    assert sorted(dataset.column("id")) == [
        "cat/3.png",
        "cat/4.png",
        "cat/linked.png",
        "dog/0.png",
        "dog/1.png",
        "dog/2.png",
    ]
    assert [dataset.images.read(row).shape[0] for row in range(6)] == [3] * 6


def test_a_table_without_a_known_name(tmp_path, items, caplog):
    write_json_lines(tmp_path / "captions.jsonl", [{"file_name": "/x/0.png", "text": "a"}])
    assert len(load(tmp_path)) == 1
    assert "captions.jsonl is read" in caplog.text
    write_csv(tmp_path / "more.csv", _rows(items))
    with pytest.raises(DataError, match=r"several tables \(captions\.jsonl, more\.csv\); name the one that is meant"):
        load(tmp_path)
    write_images(tmp_path, items)
    with pytest.raises(DataError, match=r"6 images without captions; .*or name the table, as in .*\.(csv|jsonl)"):
        load(tmp_path)
    write_images(tmp_path / "cat", items)
    assert set(load(tmp_path).column("label")) == {"cat"}
    assert "captions.jsonl, more.csv is not" in caplog.text.replace(
        "more.csv, captions.jsonl", "captions.jsonl, more.csv"
    )
