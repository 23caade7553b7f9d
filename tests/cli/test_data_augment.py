"""`mmcl data augment`: a page of views, from a preset or a recipe, and what is told of mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SCENES = "shapes?train=20&image_size=32:train"


def test_it_writes_a_page(invoke, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    options = ["--preset", "dino", "--rows", "2", "--views", "3", "--size", "32"]
    done = invoke("data", "augment", SCENES, "-o", str(out), *options, "data.captions.word_dropout=0.3")
    assert done.code == 0, done.err
    assert "2 rows" in done.out
    assert "3 views each" in done.out
    page = out.read_text()
    assert page.count("<h2>") == 2
    assert "local crop 8" in page
    assert "<td>data.captions.word_dropout</td><td>0.3</td>" in page
    # The same command writes the same page, another seed another one.
    again = tmp_path / "again.html"
    told = tmp_path / "told.json"
    options += ["--json", str(told)]
    assert invoke("data", "augment", SCENES, "-o", str(again), *options, "data.captions.word_dropout=0.3").code == 0
    about = json.loads(told.read_text())
    assert (about["rows"], about["views"], about["seed"]) == (2, 3, 0)
    assert (about["augment"]["preset"], about["captions"]["word_dropout"]) == ("dino", 0.3)
    assert again.read_text() == page
    more = ["data.captions.word_dropout=0.3", "--seed", "1"]
    assert invoke("data", "augment", SCENES, "-o", str(again), *options, *more).code == 0
    assert again.read_text() != page


def test_it_takes_a_recipes_sections(invoke, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    options = ["--recipe", "flickr30k", "--rows", "1", "--views", "1", "--size", "32"]
    done = invoke("data", "augment", SCENES, "-o", str(out), *options, "data.augment.flip=0.25")
    assert done.code == 0, done.err
    page = out.read_text()
    assert "<td>data.augment.crop_scale</td><td>[0.6, 1.0]</td>" in page
    assert "<td>data.augment.flip</td><td>0.25</td>" in page


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--preset", "simclrr"], 2, "did you mean 'simclr'?"),
        (["blur=1"], 2, "did you mean 'data.augment.blur'?"),
        (["data.augment.blur"], 2, "want key=value"),
        (["--recipe", "none"], 2, "no recipe 'none'"),
        (["data.captions.translations={i18n.de: 1.0}"], 2, "has no column 'i18n.de'"),
        (["data.captions.synonyms=none.csv"], 2, "none.csv cannot be read"),
        (["--rows", "0"], 2, "--rows"),
        (["--column", "text"], 2, "want NAME=YOURS"),
        (["--json", "none/told.json"], 2, "--json none/told.json"),
        (["-o", "."], 2, "it is a folder"),
    ],
)
def test_mistakes_are_told(
    arguments: list[str], code: int, named: str, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("data", "augment", SCENES, *(["-o", "page.html"] if "-o" not in arguments else []), *arguments)
    assert named in done.err
    assert (done.code, list(tmp_path.iterdir())) == (code, [])
