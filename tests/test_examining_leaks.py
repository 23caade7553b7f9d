"""Validation rows that training rows give away: by caption, group, image, or an image that is nearly the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mmcl.builders.examining import leaks
from mmcl.builders.examining.leaks import find_leaks
from mmcl.config import recipe_from_tree
from mmcl.data.splits.training_splits import Splits, load_splits

TRAIN, HELD = 40, 20


def picture(seed: int) -> Image.Image:
    """Lines and discs, of no two seeds alike."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", (96, 96), tuple(generator.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y, size = (int(value) for value in (*generator.integers(0, 80, 2), generator.integers(8, 40)))
        draw.ellipse((x, y, x + size, y + size), fill=tuple(generator.integers(0, 256, 3).tolist()))
    return image


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))


def splits_of(
    folder: Path, *, copies: int = 0, prints: int = 0, captions: int = 0, groups: int = 0, kinds: int = 0
) -> Splits:
    """Training rows, and held rows of which some have a training image, one like it, a caption or a group.

    With ``kinds`` all rows are of so many groups.
    """
    folder.mkdir()
    lines = []
    for row in range(TRAIN + HELD):
        held, split = row - TRAIN, "train" if row < TRAIN else "validation"
        name, text, group = f"{row:03d}.png", f"a picture with the number {row}", f"group {row}"
        image = picture(row)
        if 0 <= held < copies:
            image = picture(held)
        elif copies <= held < copies + prints:
            name, image = f"{row:03d}.jpg", picture(held).resize((80, 80))
        image.save(folder / name, **({"quality": 85} if name.endswith("jpg") else {}))
        if 0 <= held < captions:
            text = f"a picture with the number {held}"
        if 0 <= held < groups:
            group = f"group {held}"
        group = f"kind {row % kinds}" if kinds else group
        lines.append(json.dumps({"image": name, "text": text, "group": group, "split": split}))
    (folder / "table.jsonl").write_text("\n".join(lines) + "\n")
    tree = {"data": {"path": str(folder / "table.jsonl"), "images": str(folder)}}
    return load_splits(recipe_from_tree(tree, source="test"))


def rows_of(splits: Splits) -> dict[str, int]:
    return {leak.kind: leak.rows for leak in find_leaks(splits)}


def test_splits_without_anything_in_common(tmp_path: Path) -> None:
    assert rows_of(splits_of(tmp_path / "data")) == {"caption": 0, "group": 0, "image": 0, "near image": 0}


def test_each_kind_is_counted(tmp_path: Path) -> None:
    splits = splits_of(tmp_path / "data", copies=4, prints=7, captions=3, groups=2)
    assert rows_of(splits) == {"caption": 3, "group": 2, "image": 4, "near image": 7}
    by_kind = {leak.kind: leak for leak in find_leaks(splits)}
    assert "040.png like 000.png of the training split" in by_kind["image"].example.replace(f"{tmp_path}/data/", "")
    assert ".jpg like " in by_kind["near image"].example
    assert not by_kind["image"].is_estimate


@pytest.mark.parametrize(("kinds", "found"), [(1, 0), (2, HELD), (10, HELD)])
def test_a_group_of_many_rows_is_a_kind_and_gives_nothing_away(tmp_path: Path, kinds: int, found: int) -> None:
    """One kind has 40 training rows; two have 20 each, as many pictures as one thing may have."""
    assert rows_of(splits_of(tmp_path / "data", kinds=kinds))["group"] == found


def test_of_part_of_the_rows_the_number_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = splits_of(tmp_path / "data", prints=20)
    monkeypatch.setattr(leaks, "MOST_SEEN", 20)
    near = next(leak for leak in find_leaks(splits) if leak.kind == "near image")
    assert near.is_estimate
    assert near.rows == pytest.approx(20, abs=10)
    monkeypatch.setattr(leaks, "SURE_HITS", 100)
    assert rows_of(splits)["near image"] == 0
