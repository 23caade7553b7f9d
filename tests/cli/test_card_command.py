"""`mmcl card`: what it writes, keeps, checks and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

OPTIONS = ("--license", "apache-2.0", "--language", "en", "--no-measure", "--no-gallery")


def test_it_writes_a_card_with_its_pictures(tiny_run: Path, tmp_path: Path, invoke) -> None:
    out = tmp_path / "README.md"
    done = invoke("card", str(tiny_run), "-o", str(out), "--repo-id", "owner/tiny", "--tag", "mine", "--json",
                  str(tmp_path / "card.json"), *OPTIONS)  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "card.json").read_text())
    assert [Path(file).name for file in told["files"]] == ["README.md", "data_card_shapes.md", "loss.svg"]
    assert all(Path(file).is_file() for file in told["files"])
    assert all("a question is not answered yet" in fault for fault in told["faults"])
    assert f"{len(told['faults'])} things to answer or mend: mmcl card --check {out}" in done.out
    assert 'mmcl.load("owner/tiny")' in out.read_text()
    assert "mine" in out.read_text().split("---")[1]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_checking_tells_until_nothing_is_wrong(tiny_run: Path, tmp_path: Path, invoke) -> None:
    out = tmp_path / "README.md"
    assert invoke("card", str(tiny_run), "-o", str(out), *OPTIONS).code == 0
    open_ = invoke("card", "--check", str(out))
    assert open_.code == 1
    assert "a question is not answered yet" in open_.out
    out.write_text(out.read_text().replace("**Please answer:**", "Answered:"))
    whole = invoke("card", "--check", str(out))
    assert (whole.code, whole.out) == (0, f"{out}: complete and valid\n")


def test_what_a_person_wrote_is_kept(tiny_run: Path, tmp_path: Path, invoke) -> None:
    out = tmp_path / "README.md"
    out.write_text("mine")
    done = invoke("card", str(tiny_run), "-o", str(out), *OPTIONS)
    assert done.code == 2
    assert "exists; name another file, or replace it, words and all, with --force" in done.err
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]
    assert invoke("card", str(tiny_run), "-o", str(out), "--force", *OPTIONS).code == 0
    assert out.read_text().startswith("---\nlicense: apache-2.0\n")


def test_an_interrupted_card_leaves_nothing(tiny_run: Path, tmp_path: Path, invoke, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmcl.hub.card.writing.curves", interrupted)
    done = invoke("card", str(tiny_run), "-o", str(tmp_path / "README.md"), *OPTIONS)
    assert done.code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the run and the file, as in: mmcl card runs/emoji -o README.md"),
        (("nowhere", "-o", "card.md"), "nowhere: there is no such folder"),
        ((".", "-o", "card.md"), "neither a run nor a model"),
        (("x", "-o", "."), "is a folder; name a file in it"),
        (("x", "-o", "no/such/card.md"), "there is no folder"),
        (("x", "-o", "card.md", "--license", "apache2"), "--license: 'apache2' is no licence of the Hub"),
        (("x", "-o", "card.md", "--repo-id", "/home/x"), "--repo-id '/home/x' is no id of the Hub"),
        (("x", "-o", "card.md", "--format", "onnxx"), "did you mean 'onnx'?"),
        (("--check", "nowhere.md"), "nowhere.md cannot be read (No such file or directory)"),
        (("x", "--check", "card.md"), "reads a card and measures nothing; leave RUN and --out out"),
    ],
)
def test_bad_usage_is_told(arguments: tuple[str, ...], message: str, invoke, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("card", *(arguments or ("--no-measure",)))
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert list(tmp_path.iterdir()) == []
