from __future__ import annotations

import json

import pytest
from stored_items import write_images

from mmcl.data import available_splits, load, load_all
from mmcl.errors import DataError


def _content(items, **more):
    images = [{"id": 100 + n, "file_name": item.name, "width": 5, "height": 4 + n} for n, item in enumerate(items)]
    annotations = [
        {"id": 10 * n + k, "image_id": 100 + n, "caption": f"{text} \n"}
        for k in range(2)
        for n, item in enumerate(items)
        for text in item.texts[k : k + 1]
    ]
    return {"info": {"year": 2017}, "images": images, "annotations": annotations, **more}


@pytest.fixture
def root(tmp_path, items):
    """The layout that COCO is unpacked to."""
    (tmp_path / "annotations").mkdir()
    for year, part in (("train2017", items[:4]), ("val2017", items[4:])):
        write_images(tmp_path / year, part)
        (tmp_path / "annotations" / f"captions_{year}.json").write_text(json.dumps(_content(part)))
    return tmp_path


def test_an_annotation_file_finds_its_images(root, items):
    path = root / "annotations" / "captions_train2017.json"
    dataset = load(path)
    assert dataset.column("id") == ["100", "101", "102", "103"]
    assert dataset.column("texts") == [item.texts for item in items[:4]]
    assert [dataset.images.read(row).shape[1] for row in range(4)] == [4, 5, 6, 7]
    assert dataset.skipped == []
    assert load(path, images=root / "train2017").images.read(0).shape == (3, 4, 5)
    assert load(path, images=root).images.read(0).shape == (3, 4, 5)


def test_the_whole_folder_has_splits(root, items, caplog):
    assert available_splits(root) == ["train", "validation"]
    everything = load_all(root)
    assert {name: len(part) for name, part in everything.items()} == {"train": 4, "validation": 2}
    assert load(f"{root}:val").column("texts") == [item.texts for item in items[4:]]
    assert "captions_train2017.json" in caplog.text
    (root / "captions_train2014.json").write_text(json.dumps(_content(items)))
    with pytest.raises(
        DataError, match=r"several files of captions \(captions_train2014\.json, annotations/captions_t"
    ):
        load(root)


def test_images_elsewhere_are_asked_for(root, items, tmp_path_factory):
    other = tmp_path_factory.mktemp("other") / "inner"
    other.mkdir()
    path = other / "captions_train2017.json"
    path.write_text((root / "annotations" / "captions_train2017.json").read_text())
    with pytest.raises(DataError, match=r"its first image 0\.png is not in .*train2017.*data\.images"):
        load(path)
    assert len(load(path, images=root / "train2017")) == 4


def test_what_cannot_be_used_is_listed(root, items):
    content = _content(items[:4])
    content["images"] += [{"id": 100, "file_name": "x.png"}, {"file_name": "y.png"}, 3, {"id": 7, "file_name": "7.png"}]
    content["annotations"] += [{"image_id": 999, "caption": "lost"}, {"image_id": 100}, {"image_id": 7, "caption": " "}]
    path = root / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps(content))
    dataset = load(path)
    assert len(dataset) == 4
    assert [(row.source.removeprefix(f"{path}:"), row.reason) for row in dataset.skipped] == [
        ("image 4", "the id 100 of another image"),
        ("image 5", "no id or no file_name"),
        ("image 6", "no id or no file_name"),
        ("annotation 6", "the caption of an image that is not listed (999)"),
        ("annotation 7", "no caption"),
        ("image 7", "no caption"),
    ]


@pytest.mark.parametrize("annotations", [[], [{"image_id": 1, "bbox": [1, 2, 3, 4]}]])
def test_other_annotations_are_refused(root, items, annotations):
    (root / "instances.json").write_text(json.dumps(_content(items) | {"annotations": annotations}))
    with pytest.raises(DataError, match=r"nor COCO captions \(images\[\]\.file_name, annotations\[\]\.caption\)"):
        load(root / "instances.json")
    (root / "x.json").write_text(json.dumps({"annotations": [{"caption": "a"}]}))
    with pytest.raises(DataError, match="no list 'images'"):
        load(root / "x.json")
    (root / "y.json").write_text('{"images": [')
    with pytest.raises(DataError, match="malformed JSON"):
        load(root / "y.json")


def test_a_karpathy_file_in_its_folder(tmp_path, items):
    write_images(tmp_path / "images", items)
    images = [
        {"filename": i.name, "imgid": n, "split": ("train", "test")[n % 2], "sentences": [{"raw": i.texts[0]}]}
        for n, i in enumerate(items)
    ]
    (tmp_path / "dataset_tiny.json").write_text(json.dumps({"images": images}))
    assert available_splits(tmp_path) == ["train", "test"]
    assert load(f"{tmp_path}:test").column("id") == ["1", "3", "5"]
