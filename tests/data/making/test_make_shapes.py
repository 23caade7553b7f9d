from __future__ import annotations

import pytest

from mmcl.data import load, load_all
from mmcl.data.cards import check_card
from mmcl.data.making.shapes import make_shapes
from mmcl.errors import DataError


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 6, "validation": 3, "test": 4, "test_seen": 2}
    for module in ("mmcl.data.shapes.dataset", "mmcl.data.making.shapes"):
        monkeypatch.setattr(f"{module}.DEFAULT_SIZES", sizes)


def test_the_scenes_are_those_of_the_reference(tmp_path):
    counts = make_shapes(tmp_path / "out", train=5, image_size=32, seed=3)
    assert counts["rows"] == {"train": 5, "validation": 3, "test": 4, "test_seen": 2}
    written = load_all(tmp_path / "out")
    for split, rows in counts["rows"].items():
        scenes = load(f"shapes?{split}={rows}&seed=3&image_size=32:{split}")
        assert written[split].images.read(rows - 1).equal(scenes.images.read(rows - 1))
        for column in scenes.table.column_names:
            assert written[split].column(column) == scenes.column(column)
    other = load("shapes?test=4&seed=4&image_size=32:test")
    assert not written["test"].images.read(3).equal(other.images.read(3))


def test_the_card_is_valid_and_says_the_command(tmp_path):
    counts = make_shapes(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert counts["card"] == str(tmp_path / "out" / "README.md")
    assert check_card(card, folder=tmp_path / "out") == []
    assert "mmcl data make shapes -o OUT --train 6 --image-size 64 --seed 0" in card
    assert "apache-2.0" in card


def test_impossible_scenes_are_told(tmp_path):
    with pytest.raises(DataError, match="image_size of shapes must be at least 16 pixels, got 8"):
        make_shapes(tmp_path / "out", image_size=8)
    assert not (tmp_path / "out").exists()
