"""`mmcl data card` as a person runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MADE = ["shapes?train=12&validation=4&test=4&test_seen=4"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs" / "train"
    folder.mkdir(parents=True)
    lines = []
    for row in range(4):
        pixels = np.random.default_rng(row).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{row}.png")
        lines.append(json.dumps({"file_name": f"{row}.png", "text": f"a dog number {row}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder.parent


def test_it_writes_a_card_and_keeps_what_a_person_wrote(invoke, pairs: Path, tmp_path: Path) -> None:
    out, told = pairs / "README.md", tmp_path / "told.json"
    options = ["--license", "cc-by-4.0", "--language", "en", "--name", "Four dogs", "--json", str(told)]
    done = invoke("data", "card", str(pairs), "-o", str(out), *options, "--credit", "A. Person", "--version", "2")
    assert done.code == 0, done.err
    assert "6 things to answer" in done.out
    card = out.read_text(encoding="utf-8")
    assert "# Four dogs\n" in card
    assert "| rows | 4 |" in card
    found = json.loads(told.read_text())
    assert list(found) == ["card", "faults", "data", "splits", "overlaps", "hints"]
    assert len(found["faults"]) == 6
    again = invoke("data", "card", str(pairs), "-o", str(out))
    assert again.code == 2
    assert "--update measures it again and keeps its words, --force replaces it" in again.err
    assert out.read_text(encoding="utf-8") == card
    checked = invoke("data", "card", "--check", str(out), "--json", str(told))
    assert checked.code == 1
    assert checked.out.count("a question is not answered yet") == 6
    assert len(json.loads(told.read_text())["faults"]) == 6
    answered = card.replace("**Please answer:**", "Answered:")
    out.write_text(answered, encoding="utf-8")
    assert invoke("data", "card", "--check", str(out)).code == 0
    (pairs / "train" / "metadata.jsonl").open("a").write(json.dumps({"file_name": "0.png", "text": "another"}) + "\n")
    updated = invoke("data", "card", str(pairs), "-o", str(out), "--update", "--sample-images", "2")
    assert updated.code == 0, updated.err
    assert "0 things to answer" in updated.out
    new = out.read_text(encoding="utf-8")
    assert "| Captions: captions | 5 |" in new
    assert "--update --sample-images 2" in new
    assert new.count("Answered:") == 6
    assert invoke("data", "card", str(pairs), "-o", str(out), "--force", "--no-images").code == 0
    assert "Answered:" not in out.read_text(encoding="utf-8")
    assert sorted(path.name for path in pairs.iterdir()) == ["README.md", "train"]


def test_without_a_file_the_card_goes_to_the_terminal(invoke) -> None:
    done = invoke("data", "card", *MADE, "--language", "en", "--license", "apache-2.0", "--no-images")
    assert done.code == 0, done.err
    assert done.out.startswith("---\npretty_name: shapes\n")
    assert "| rows | 12 | 4 | 4 | 4 |" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ([*MADE, "-o", "none/README.md"], 2, "there is no folder"),
        ([*MADE, "-o", "."], 2, "is a folder; name a file in it"),
        ([*MADE, "--update"], 2, "--update needs the card"),
        ([*MADE, "-o", "mine.md", "--update"], 2, "has no block between"),
        ([*MADE, "-o", "mine.md", "--update", "--force"], 2, "choose one"),
        ([*MADE, "-o", "gone.md", "--update"], 2, "gone.md cannot be read"),
        ([*MADE, "--license", "cc-by-4"], 2, "--license: 'cc-by-4' is no licence of the Hub"),
        ([*MADE, "--license", "other"], 2, "--license: 'other' wants license_name"),
        ([*MADE, "--language", "english"], 2, "--language: 'english' is no ISO 639-1 code"),
        ([*MADE, "--check", "mine.md"], 2, "leave DATA, --out and --update out"),
        (["--check", "gone.md"], 2, "gone.md cannot be read"),
        (["--check", "mine.md"], 1, "line 1: front matter"),
        (["none/there"], 1, "none/there"),
        (["--version", "2"], 2, "name the data"),
    ],
)
def test_mistakes_are_told_before_anything_is_measured(
    arguments: list[str], code: int, named: str, invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.md").write_text("# My own words\n")
    done = invoke("data", "card", *arguments)
    assert done.code == code, done.err
    assert named in done.err + done.out
    assert Path("mine.md").read_text() == "# My own words\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.md"]
