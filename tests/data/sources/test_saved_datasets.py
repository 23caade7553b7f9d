from __future__ import annotations

import json
import pickle
import shutil

import datasets
import numpy as np
import pytest
import torch
from stored_items import write_images

from mmcl.data import available_splits, load, load_all
from mmcl.errors import DataError


def _dataset(items, image: str = "bytes", **more) -> datasets.Dataset:
    cells = {
        "bytes": [{"bytes": item.png, "path": None} for item in items],
        "names": [item.name for item in items],
        "raw": [item.png for item in items],
    }[image]
    features = datasets.Features(
        {
            "image": {"bytes": datasets.Image(), "names": datasets.Value("string"), "raw": datasets.Value("binary")}[
                image
            ],
            "caption": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["dog", "red_fox"]),
            **{name: datasets.Value("string") for name in more},
        }
    )
    labels = [("dog", "red_fox").index(item.label) for item in items]
    columns = {"image": cells, "caption": [item.texts for item in items], "label": labels, **more}
    return datasets.Dataset.from_dict(columns, features=features)


def _check(dataset, items):
    assert dataset.column("texts") == [item.texts for item in items]
    assert dataset.column("label") == [item.label for item in items]
    for row, item in enumerate(items):
        assert torch.equal(dataset.images.read(row), torch.from_numpy(item.pixels).permute(2, 0, 1))
    assert dataset.images.read(0).shape != dataset.images.read(1).shape, "control"


@pytest.mark.parametrize("image", ["bytes", "names", "raw"])
def test_a_data_set_on_disk(tmp_path, items, image):
    _dataset(items, image).save_to_disk(tmp_path / "saved", num_shards=2)
    if image == "names":
        write_images(tmp_path / "saved", items)
    dataset = load(tmp_path / "saved")
    _check(dataset, items)
    assert available_splits(tmp_path / "saved") == []
    assert load(tmp_path / "saved").fingerprint() == dataset.fingerprint()
    chosen = pickle.loads(pickle.dumps(dataset.select(np.array([3, 1]))))
    assert torch.equal(chosen.images.read(0), dataset.images.read(3))


def test_paths_start_where_images_says(tmp_path, items):
    _dataset(items, "names").save_to_disk(tmp_path / "saved")
    write_images(tmp_path / "pictures", items)
    _check(load(tmp_path / "saved", images=tmp_path / "pictures"), items)


def test_a_dictionary_of_splits(tmp_path, items):
    parts = {"train": _dataset(items[:4]), "val": _dataset(items[4:])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path)
    assert available_splits(tmp_path) == ["train", "validation"]
    _check(load(f"{tmp_path}:validation"), items[4:])
    assert {name: len(part) for name, part in load_all(tmp_path).items()} == {"train": 4, "validation": 2}
    _check(load(tmp_path / "train"), items[:4])
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match=r"names the split 'train', and there is no folder"):
        load(tmp_path, split="val")
    (tmp_path / "dataset_dict.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset_dict\.json: damaged"):
        load(tmp_path)


def test_a_split_column_inside(tmp_path, items):
    _dataset(items, split=["train", "test"] * 3).save_to_disk(tmp_path)
    assert available_splits(tmp_path) == ["train", "test"]
    _check(load(f"{tmp_path}:test"), items[1::2])


def test_a_filtered_data_set_keeps_its_rows(tmp_path, items):
    _dataset(items).select([5, 2, 0]).save_to_disk(tmp_path)
    _check(load(tmp_path), [items[5], items[2], items[0]])


@pytest.mark.parametrize("fault", ["cut", "missing", "state"])
def test_damaged_folders_are_named(tmp_path, items, fault):
    _dataset(items).save_to_disk(tmp_path)
    arrow = next(tmp_path.glob("*.arrow"))
    if fault == "cut":
        arrow.write_bytes(arrow.read_bytes()[:200])
    elif fault == "missing":
        arrow.unlink()
    else:
        (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match=rf"{tmp_path}: written by save_to_disk, but it cannot be read \(\w+: "):
        load(tmp_path)


def test_the_arrow_files_of_a_cache(tmp_path, items, monkeypatch):
    pictures = write_images(tmp_path / "pictures" / "train", items[:4])
    write_images(tmp_path / "pictures" / "test", items[4:])
    for split, part in (("train", items[:4]), ("test", items[4:])):
        rows = [{"file_name": item.name, "text": item.texts[0]} for item in part]
        lines = "\n".join(json.dumps(row) for row in rows)
        (pictures.parent / split / "metadata.jsonl").write_text(lines)
    datasets.load_dataset("imagefolder", data_dir=str(pictures.parent), cache_dir=str(tmp_path / "cache"))
    folder = next((tmp_path / "cache").rglob("dataset_info.json")).parent
    (folder / "cache-0123456789abcdef.arrow").write_bytes(b"of a transformation")
    assert available_splits(folder) == ["train", "test"]
    dataset = load(f"{folder}:test")
    assert dataset.column("texts") == [[item.texts[0]] for item in items[4:]]
    assert torch.equal(dataset.images.read(1), torch.from_numpy(items[5].pixels).permute(2, 0, 1))
    next(folder.glob("*test.arrow")).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"test\.arrow: no Arrow file of datasets, or a damaged one"):
        load(f"{folder}:test")
    assert len(load(f"{folder}:train")) == 4


def test_a_folder_of_parquet_parts(tmp_path, items, caplog):
    for number in range(3):
        _dataset(items[2 * number : 2 * number + 2]).to_parquet(tmp_path / f"part-{number}.parquet")
    dataset = load(tmp_path)
    assert dataset.column("texts") == [item.texts for item in items]
    assert torch.equal(dataset.images.read(5), torch.from_numpy(items[5].pixels).permute(2, 0, 1))


@pytest.mark.parametrize("image", ["bytes", "names"])
def test_a_dot_reaches_into_lists_of_structs(tmp_path, items, image):
    sentences = [[{"raw": text, "id": number} for number, text in enumerate(item.texts)] for item in items]
    _dataset(items, image).add_column("sentences", sentences).save_to_disk(tmp_path / "saved")
    dataset = load(
        tmp_path / "saved", columns={"text": "sentences.raw"}, images=write_images(tmp_path / "files", items)
    )
    _check(dataset, items)
    with pytest.raises(DataError, match=r"sentences\.words"):
        load(tmp_path / "saved", columns={"text": "sentences.words"})
