"""`mmcl data inspect` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of two splits; one row names no image, one image is broken, one caption stands in both splits."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for row in range(10):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / f"{row}.png")
        caption = f"a dog number {row % 9} runs over the wet grass"
        lines.append({"file_name": f"{row}.png", "text": caption, "split": "train" if row < 7 else "test"})
    (folder / "3.png").write_bytes(b"none")
    lines.append({"file_name": None, "text": "no picture", "split": "train"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_it_shows_all_splits_side_by_side(invoke, pairs: Path, tmp_path: Path) -> None:
    page, told = tmp_path / "deep" / "page.html", tmp_path / "told.json"
    done = invoke("data", "inspect", str(pairs), "--report", str(page), "--json", str(told), "--samples", "2")
    assert done.code == 0, done.err
    for words in (
        "train",
        "test",
        "train and test have in common: captions 1",
        "no validation split",
        "cannot be read",
    ):
        assert words in done.out, words
    found = json.loads(told.read_text())
    assert list(found) == ["data", "splits", "overlaps", "hints"]
    assert {split: figures["rows"] for split, figures in found["splits"].items()} == {"train": 7, "test": 3}
    assert found["splits"]["train"]["skipped"] == 1
    assert found["splits"]["train"]["images"]["unreadable"] == 1
    assert found["overlaps"] == [{"first": "train", "second": "test", "captions": 1, "rows": 1, "groups": None}]
    assert {"overlap", "no_validation", "unreadable_images", "skipped_rows"} <= {
        hint["name"] for hint in found["hints"]
    }
    assert set(found["hints"][0]) == {"name", "split", "found", "advice"}
    html = page.read_text(encoding="utf-8")
    assert 3 <= html.count("<img") <= 4  # the broken one may be among the two drawn of train
    assert "<script" not in html


def test_one_split_shows_itself_alone(invoke, pairs: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    done = invoke("data", "inspect", f"{pairs}:test", "--no-images", "--json", str(told))
    assert done.code == 0, done.err
    found = json.loads(told.read_text())
    assert list(found["splits"]) == ["test"]
    assert found["splits"]["test"]["images"] is None
    assert found["overlaps"] == []
    assert "no validation split" not in done.out


def test_the_number_of_images_is_as_asked(invoke, pairs: Path, tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    looked_at = []
    for options in (["--sample-images", "2"], ["--all-images"], ["--no-images"]):
        assert invoke("data", "inspect", str(pairs), *options, "--json", str(told)).code == 0
        images = json.loads(told.read_text())["splits"]["train"]["images"]
        looked_at.append(images and images["looked_at"])
    assert looked_at == [2, 7, None]


def test_vectors_and_renamed_columns(invoke, pairs: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", image=np.eye(3), text=np.eye(3))
    done = invoke("data", "inspect", f"vectors:{tmp_path / 'v.npz'}")
    assert done.code == 0, done.err
    done = invoke(
        "data", "inspect", str(pairs), "--no-images", "--column", "text=file_name", "--column", "image=file_name"
    )
    assert done.code == 0, done.err
    assert "captions" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["none/there"], 1, "none/there"),
        (["shapes?test=3:test", "--all-images", "--no-images"], 2, "contradict"),
        (["shapes?test=3:test", "--sample-images", "0"], 2, "sample-images"),
        (["shapes?test=3:test", "--column", "text"], 2, "want NAME=YOURS"),
        (["shapes?test=3:test", "--json", "none/x.json"], 2, "there is no folder"),
        (["shapes?test=3:test", "--report", "."], 2, "it is a folder"),
        (["shapes?test=3:test", "--report", "page.pdf"], 2, "ends in .html"),
        (["shapes:nosplit"], 1, "no split 'nosplit'"),
        ([], 0, "Usage"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, named: str, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("data", "inspect", *arguments)
    assert done.code == code or (not arguments and done.code == 2)  # typer's own code for help without arguments
    assert named in done.err + done.out
    assert "Traceback" not in done.err
