from __future__ import annotations

import json

import pytest
from stored_items import write_images

from mmcl.data import available_splits, load
from mmcl.errors import DataError


def _entry(item, number, split, **more):
    sentences = [{"raw": text, "tokens": text.split()} for text in item.texts]
    return {"filename": item.name, "imgid": number, "split": split, "sentences": sentences, **more}


@pytest.fixture
def coco(tmp_path, items):
    write_images(tmp_path / "pictures" / "val2014", items)
    splits = ["train", "restval", "val", "test", "test", "test"]
    entries = [
        _entry(item, number, split, filepath="val2014", cocoid=900 + number)
        for number, (item, split) in enumerate(zip(items, splits))
    ]
    entries[5]["sentences"] = [{"raw": "  "}]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return path


def test_splits_sentences_ids_and_paths(coco, tmp_path, items):
    images = tmp_path / "pictures"
    assert available_splits(coco, images=images) == ["train", "validation", "test"]
    train = load(f"{coco}:train", images=images)
    assert train.column("id") == ["900", "901"], "restval counts as train"
    assert train.column("texts") == [item.texts for item in items[:2]]
    assert train.images.read(1).shape == (3, 5, 5)
    test = load(f"{coco}:test", images=images)
    assert test.column("id") == ["903", "904"]
    assert [(row.source, row.reason) for row in test.skipped] == [(f"{coco}:image 5", "no caption")]
    assert load(f"{coco}:val", images=images).column("id") == ["902"]


def test_missing_images_are_told_at_once(coco):
    with pytest.raises(DataError, match=r"first image val2014/0\.png is not in .*data\.images"):
        load(f"{coco}:train")


@pytest.mark.parametrize("content", ['{"images": [{"file_name": "a"}], "annotations": []}', '{"a": 1', '{"images": 3}'])
def test_other_json_files_are_refused(tmp_path, content):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(DataError, match="neither a table nor a Karpathy split file"):
        load(tmp_path / "captions.json")
