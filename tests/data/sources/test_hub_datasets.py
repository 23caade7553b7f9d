from __future__ import annotations

import pickle

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mmcl.data import available_splits, load
from mmcl.errors import DataError


class FakeHub:
    """Stands in for the Hub: one data set with two splits."""

    def __init__(self, items):
        features = {
            "picture": datasets.Image(),
            "caption": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=["dog", "red fox"]),
            "other": datasets.Image(),
        }
        rows = {
            "picture": [Image.fromarray(item.pixels) for item in items],
            "caption": [item.texts for item in items],
            "label": [index % 2 for index in range(6)],
            "other": [Image.new("RGB", (2, 2))] * 6,
        }
        whole = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        self.parts = {"train": whole.select(range(4)), "test": whole.select(range(4, 6))}
        self.asked = []

    def dataset_info(self, name, revision=None, timeout=None):
        self.asked.append((name, revision))

    def load_dataset(self, path, name=None, revision=None, split=None):
        return self.parts if split is None else self.parts[split]

    def get_dataset_split_names(self, path, config_name=None, revision=None):
        return list(self.parts)


@pytest.fixture
def hub(items, monkeypatch):
    fake = FakeHub(items)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: fake)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", fake.load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_split_names", fake.get_dataset_split_names)
    return fake


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_data_set(hub, items, monkeypatch, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    assert available_splits("owner/name") == ["train", "test"]
    dataset = load("owner/name@v1:test", columns={"image": "picture"})
    assert dataset.column("texts") == [item.texts for item in items[4:]]
    assert dataset.column("label") == ["dog", "red fox"]
    assert "other" not in dataset.table.column_names, "other images stay out of memory"
    assert torch.equal(dataset.images.read(1), torch.from_numpy(items[5].pixels).permute(2, 0, 1))
    chosen = dataset.select(np.array([1, 0]))
    assert torch.equal(chosen.images.read(0), dataset.images.read(1))
    assert torch.equal(pickle.loads(pickle.dumps(chosen.images)).read(0), dataset.images.read(1))
    assert chosen.fingerprint() != dataset.fingerprint()
    if not offline:
        assert hub.asked[-1] == ("owner/name", "v1")


def test_the_image_column_must_be_clear(hub):
    with pytest.raises(DataError, match=r"owner/name has several columns of images.*picture.*data\.columns\.image"):
        load("owner/name:test")
    with pytest.raises(DataError, match="no column 'nope'"):
        load("owner/name:test", columns={"image": "nope"})
    with pytest.raises(DataError, match="several splits"):
        load("owner/name")


def test_an_unreachable_hub_is_one_clear_error(monkeypatch):
    class Unreachable:
        def dataset_info(self, *_, **__):
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi", Unreachable)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"'owner/name@v1' is no path here.*Name or service.*HF_HUB_OFFLINE=1"):
        load("owner/name@v1:test")


def test_features_of_the_datasets_library(hub, items):
    text = datasets.Value("string")
    features = {
        "image": datasets.Image(),
        "sentences": datasets.List({"raw": text, "tokens": datasets.List(text)}),
        "translation": datasets.Translation(languages=["de", "en"]),
        "label": datasets.ClassLabel(names=["dog", "red fox"]),
        "pages": datasets.List(datasets.Image()),
        "blob": {"data": datasets.Value("large_binary")},
    }
    rows = {
        "image": [{"bytes": item.png, "path": None} for item in items],
        "sentences": [[{"raw": text, "tokens": text.split()} for text in item.texts] for item in items[:5]] + [None],
        "translation": [{"de": f"Bild {row}", "en": f"picture {row}"} for row in range(6)],
        "label": [0, 1, -1, None, 1, 0],
        "pages": [[{"bytes": item.png, "path": None}] * 2 for item in items],
        "blob": [{"data": b"x" * 100}] * 6,
    }
    hub.parts = {"train": datasets.Dataset.from_dict(rows, features=datasets.Features(features))}
    dataset = load("owner/name:train", columns={"text": "sentences.raw"})
    assert dataset.column("texts") == [item.texts for item in items[:5]]
    assert dataset.skipped[0].reason == "no caption"
    assert dataset.column("label") == ["dog", "red fox", None, None, "red fox"]
    assert dataset.column("sentences")[1]["tokens"][0] == items[1].texts[0].split()
    assert not {"pages", "blob"} & set(dataset.table.column_names), "they stay out of memory"
    german = load("owner/name:train", columns={"text": "translation.de"})
    assert german.column("texts") == [[f"Bild {row}"] for row in range(6)]
    assert german.column("sentences")[0] == rows["sentences"][0], "as it came where nobody reaches into it"


def test_several_configurations_are_named(hub, monkeypatch):
    def ask(*_, **__):
        raise ValueError(
            "Config name is missing.\nPlease pick one among the available configs: ['tiny', 'large']\nExample:\n"
        )

    monkeypatch.setattr(datasets, "get_dataset_split_names", ask)
    with pytest.raises(
        DataError, match=r"several configurations \(tiny, large\); name one, as in owner/name\?config=tiny"
    ):
        load("owner/name:train")
