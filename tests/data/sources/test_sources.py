from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stored_items import write_csv, write_images, write_json_lines

import mmcl.data
from mmcl.data import available_splits, load, parse_reference
from mmcl.data.dataset import SCHEMA
from mmcl.errors import ConfigError, DataError

KINDS = [
    "metadata", "csv", "tsv", "parquet_paths", "parquet_bytes", "parquet_structs", "sidecars", "karpathy", "shards",
    "shards_folder",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_reads_the_same_six_images(kind, stored, items):
    dataset = load(stored[kind])
    assert [dataset.texts(row) for row in range(len(dataset))] == [item.texts for item in items]
    for row, item in enumerate(items):
        expected = torch.from_numpy(item.pixels).permute(2, 0, 1)
        assert torch.equal(dataset.images.read(row), expected)
        other = items[(row + 1) % 6].pixels
        assert dataset.images.read(row).shape != (3, *other.shape[:2]), "control: another image must differ"
    assert dataset.skipped == []
    if kind not in {"sidecars", "karpathy", "shards", "shards_folder"}:
        assert dataset.column("label") == [item.label for item in items]
    for column in set(dataset.table.column_names) & set(SCHEMA):
        assert dataset.table[column].type == SCHEMA[column]


@pytest.mark.parametrize("kind", KINDS)
def test_selection_and_pickling_keep_images_and_captions_together(kind, stored, items):
    dataset = load(stored[kind])
    rows = np.array([5, 0, 3, 3])
    for chosen in (dataset.select(rows), pickle.loads(pickle.dumps(dataset.select(rows)))):
        for position, row in enumerate(rows):
            assert chosen.texts(position) == items[row].texts
            assert torch.equal(chosen.images.read(position), dataset.images.read(int(row)))
            assert chosen.images.describe(position) == dataset.images.describe(int(row))
    assert not torch.equal(dataset.select([1]).images.read(0), dataset.images.read(0)[:, :4])


@pytest.mark.parametrize("kind", KINDS)
def test_fingerprint_is_stable_and_follows_the_rows(kind, stored):
    dataset = load(stored[kind])
    assert load(stored[kind]).fingerprint() == dataset.fingerprint()
    assert dataset.select([1, 0, 2]).fingerprint() != dataset.select([0, 1, 2]).fingerprint()


def test_emoji_is_read_with_all_its_columns(emoji):
    assert available_splits(emoji) == ["train", "validation", "test"]
    dataset = load(f"{emoji}:test")
    assert len(dataset) == 686
    assert dataset.skipped == []
    assert len({tuple(texts) for texts in dataset.column("texts")}) == 343
    assert dataset.value("tags", 0) == ["keycap"]
    assert len(set(dataset.column("label"))) == 9
    assert len(set(dataset.column("group"))) == 343
    assert set(dataset.column("domain")) == {"google", "twitter"}
    assert dataset.value("i18n", 0)["de"] == "Taste: *"
    assert dataset.images.read(0).dtype == torch.uint8
    assert dataset.name == f"{emoji}:test"


def test_a_column_may_be_a_field_of_a_struct(emoji):
    dataset = load(emoji, split="val", columns={"text": "i18n.de", "label": "sublabel"})
    assert "Mahjong-Stein" in {texts[0] for texts in dataset.column("texts")}
    assert dataset.value("label", 3) == "game"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("path/to/emoji", ("path/to/emoji", None)),
        ("path/to/emoji:test", ("path/to/emoji", "test")),
        ("shapes:test", ("shapes", "test")),
        ("shapes?train=4&seed=1:train", ("shapes?train=4&seed=1", "train")),
        ("owner/name@main:validation", ("owner/name@main", "validation")),
        ("vectors:file.npz", ("vectors:file.npz", None)),
        ("C:\\data\\emoji", ("C:\\data\\emoji", None)),
        ("C:emoji", ("C:emoji", None)),
        ("C:\\data\\emoji:test", ("C:\\data\\emoji", "test")),
        ("shards-{000..099}.tar:train", ("shards-{000..099}.tar", "train")),
    ],
)
def test_a_reference_is_taken_apart(reference, expected):
    assert tuple(parse_reference(reference)) == expected


def test_an_existing_path_keeps_its_colon(tmp_path, items):
    folder = write_images(tmp_path / "odd:name" / "cat", items).parent
    assert len(load(folder)) == 6


def test_shapes_by_reference():
    dataset = load("shapes?test=5&seed=3&image_size=32:test")
    assert len(dataset) == 5
    assert dataset.images.read(0).shape == (3, 32, 32)
    assert dataset.name == "shapes?test=5&seed=3&image_size=32:test"
    same, other = load("shapes?test=5&seed=3&image_size=32:test"), load("shapes?test=5&seed=4&image_size=32:test")
    assert dataset.column("texts") == same.column("texts") != other.column("texts")
    assert "test" in available_splits("shapes")
    with pytest.raises(DataError, match="several splits"):
        load("shapes")
    with pytest.raises(ConfigError, match="did you mean 'train'"):
        load("shapes?trian=5:train")
    with pytest.raises(ConfigError, match="no whole number"):
        load("shapes?train=many:train")


@pytest.fixture
def split_table(tmp_path, items) -> Path:
    write_images(tmp_path, items)
    splits = ["train", "train", "val", "validation", "test", ""]
    rows = [{"path": i.name, "caption": i.texts[0], "split": split} for i, split in zip(items, splits)]
    return write_csv(tmp_path / "table.csv", rows)


def test_a_split_column_picks_the_rows(split_table):
    assert available_splits(split_table) == ["train", "validation", "test"]
    assert load(f"{split_table}:test").column("texts") == [["picture number 4"]]
    assert load(split_table, split="dev").column("id") == ["2.png", "3.png"]
    assert load(split_table, split="dev").column("split") == ["validation", "validation"]
    assert load(f"{split_table}:train").column("id") == ["0.png", "1.png"]


def test_split_errors_list_the_splits(split_table, stored):
    with pytest.raises(DataError, match=r"no split 'tets'; it has train, validation, test \(did you mean 'test'"):
        load(f"{split_table}:tets")
    with pytest.raises(DataError, match=r"several splits \(train, validation, test\)"):
        load(split_table)
    with pytest.raises(DataError, match="has no splits, so no 'test'"):
        load(stored["csv"], split="test")
    with pytest.raises(ConfigError, match="another"):
        load(f"{split_table}:train", split="test")
    assert len(load(f"{split_table}:validation", split="val")) == 2


def test_a_missing_path_is_named_with_a_neighbour(tmp_path, stored):
    (tmp_path / "emoji").mkdir()
    with pytest.raises(DataError, match=rf"there is no {tmp_path}/emojy \(did you mean {tmp_path}/emoji\?"):
        load(tmp_path / "emojy")
    with pytest.raises(DataError, match=f"nor its folder {tmp_path}/a"):
        load(tmp_path / "a" / "b")
    with pytest.raises(DataError, match="images: there is no folder"):
        load(stored["csv"], images=tmp_path / "none")
    (tmp_path / "notes.docx").write_text("x")
    with pytest.raises(DataError, match="cannot read this kind of file"):
        load(tmp_path / "notes.docx")


def test_a_relative_path_below_an_existing_folder_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "emoji").mkdir(parents=True)
    with pytest.raises(DataError, match=r"there is no .*data/emoja \(did you mean .*data/emoji\?"):
        load("data/emoja")
    with pytest.raises(DataError, match="there is no"):
        load("elsewhere/table.csv")


def test_images_may_lie_in_another_folder(tmp_path, items):
    write_images(tmp_path / "pictures", items)
    (tmp_path / "tables").mkdir()
    rows = [{"file_name": item.name, "text": item.texts} for item in items]
    path = write_json_lines(tmp_path / "tables" / "t.jsonl", rows)
    assert load(path, images=tmp_path / "pictures").images.read(0).shape == (3, 4, 5)
    with pytest.raises(DataError, match=r"tables/0\.png: no such image file"):
        load(path).images.read(0)


def test_columns_are_renamed_and_checked(tmp_path, items):
    write_images(tmp_path, items)
    rows = [{"where": i.name, "title": i.texts[0], "label": "old", "kind": i.label, "n": 3} for i in items]
    path = write_json_lines(tmp_path / "t.jsonl", rows)
    dataset = load(path, columns={"image": "where", "text": "title", "label": "kind", "group": None})
    assert dataset.column("label") == [item.label for item in items]
    assert dataset.column("n") == [3] * 6
    with pytest.raises(DataError, match=r"no column 'titel' \(asked for as 'text'\).*title.*nearest is 'title'"):
        load(path, columns={"image": "where", "text": "titel"})
    with pytest.raises(DataError, match=r"no column for 'text' \(tried text.*data\.columns\.text"):
        load(path, columns={"image": "where"})
    with pytest.raises(DataError, match="no column for 'image'"):
        load(path, columns={"text": "title"})
    with pytest.raises(ConfigError, match=r"unknown name 'txt'.*did you mean 'text'"):
        load(path, columns={"txt": "title"})


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, mmcl.data; heavy = {'torch', 'torchvision', 'datasets', 'pyarrow'} & set(sys.modules); "
        "assert not heavy, heavy; from mmcl.data import load; "
        "heavy = {'torchvision', 'datasets', 'transformers'} & set(sys.modules); assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_exported_names_exist():
    for name in mmcl.data.__all__:
        assert getattr(mmcl.data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mmcl.data.nothing
