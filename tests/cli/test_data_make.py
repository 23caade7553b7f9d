"""`mmcl data make`, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcl.data import load


def test_shapes_as_files(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"train": 6, "validation": 2, "test": 2, "test_seen": 2}
    for module in ("mmcl.data.shapes.dataset", "mmcl.data.making.shapes"):
        monkeypatch.setattr(f"{module}.DEFAULT_SIZES", sizes)
    out, told = tmp_path / "shapes", tmp_path / "told.json"
    options = ["--train", "4", "--image-size", "24", "--seed", "2"]
    done = invoke("data", "make", "shapes", "-o", str(out), *options, "--json", str(told))
    assert done.code == 0, done.err
    assert json.loads(told.read_text())["rows"]["train"] == 4
    assert f"licences and credits: {out}/README.md" in done.out
    assert load(f"{out}:train").images.read(3).shape == (3, 24, 24)
    assert load(f"{out}:train").texts(0) == load("shapes?train=4&seed=2:train").texts(0)
    # The same command finds it done; another one is refused.
    assert invoke("data", "make", "shapes", "-o", str(out), *options).code == 0
    done = invoke("data", "make", "shapes", "-o", str(out), "--train", "5")
    assert (done.code, "begun from other data" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["emojis", "-o", "out"], 2, "known are emoji, shapes, digits; did you mean 'emoji'"),
        (["coco", "-o", "out"], 2, "there is no data set 'coco' to make"),
        (["emoji"], 2, "--out"),
        (["emoji", "-o", "out", "--train", "4"], 2, "--train is no option of emoji; it has --google"),
        (["shapes", "-o", "out", "--google", "x"], 2, "--google is no option of shapes; it has --train"),
        (["digits", "-o", "out", "--seed", "1"], 2, "--seed is no option of digits; it has --image-size"),
        (["digits", "-o", "out", "--image-size", "2"], 1, "at least 8 pixels, got 2"),
        (["shapes", "-o", "out", "--image-size", "2"], 1, "at least 16 pixels, got 2"),
        (["emoji", "-o", "out", "--google", "none"], 1, "there is no package.json in it"),
        (["shapes", "-o", "out", "--json", "none/x.json"], 2, "--json none/x.json"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, named: str, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("data", "make", *arguments)
    assert done.code == code
    assert named in done.err
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples(invoke) -> None:
    done = invoke("data", "make", "--help")
    assert done.code == 0
    for example in ("mmcl data make emoji -o data/emoji", "--google DIR --twitter DIR", "mmcl data make shapes"):
        assert example in done.out
