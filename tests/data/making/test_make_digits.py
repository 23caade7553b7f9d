from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mmcl.data import load_all
from mmcl.data.cards import check_card
from mmcl.data.making import digits
from mmcl.data.making.digits import digit_splits, make_digits, picture, split_rows
from mmcl.errors import DataError


def test_every_digit_is_there_once_under_its_own_name():
    source = load_digits()
    seen = []
    for split, dataset in digit_splits(image_size=8).items():
        assert dataset.name == f"digits:{split}"
        for row in range(0, len(dataset), 40):
            number = int(dataset.value("id", row).removeprefix("digit-"))
            ink = source.images[number]
            # Oracle: at the source's own size nothing is interpolated; 16 is black, 0 is white.
            assert np.array_equal(dataset.images.read(row)[0].numpy(), 255 - np.round(ink * 255 / 16).astype(np.uint8))
            word = digits.WORDS[source.target[number]]
            assert dataset.texts(row)[0] == f"a handwritten {word}"
            assert (dataset.value("label", row), dataset.value("group", row)) == (word, word)
        seen += dataset.column("id")
    assert len(seen) == len(set(seen)) == len(source.images)


def test_splits_have_the_same_share_of_every_class_and_ignore_the_order_of_rows():
    source = load_digits()
    images, classes = source.images[:600], source.target[:600]
    rows = split_rows(images, classes)
    for one in range(10):
        total = (classes == one).sum()
        counts = [int((classes[chosen] == one).sum()) for chosen in rows.values()]
        assert np.abs(np.array(counts) / total - [0.6, 0.2, 0.2]).max() < 0.02
    turned = split_rows(images[::-1], classes[::-1])
    for split, chosen in rows.items():
        assert sorted(599 - row for row in turned[split]) == chosen
    other = split_rows(16 - images, classes)  # a control: other pixels, other splits
    assert other["test"] != rows["test"]


def test_enlarged_pictures_are_smooth_and_the_same_each_time():
    image = load_digits().images[3]
    assert picture(image, 32) == picture(image, 32)
    assert picture(image, 32) != picture(image, 33)


def test_the_folder_has_a_valid_card(tmp_path, monkeypatch: pytest.MonkeyPatch):
    few = {split: dataset.select(range(12)) for split, dataset in digit_splits(image_size=8).items()}
    monkeypatch.setattr(digits, "digit_splits", lambda image_size: few)
    counts = make_digits(tmp_path / "out", image_size=8)
    assert counts["rows"] == {"train": 12, "validation": 12, "test": 12}
    written = load_all(tmp_path / "out")
    assert written["test"].column("texts") == few["test"].column("texts")
    card = (tmp_path / "out" / "README.md").read_text()
    assert check_card(card, folder=tmp_path / "out") == []
    assert "mmcl data make digits -o OUT --image-size 8" in card


def test_images_smaller_than_the_source_are_refused():
    with pytest.raises(DataError, match="image_size of digits must be at least 8 pixels, got 4"):
        digit_splits(image_size=4)
