"""What is written of an audit: lists, a page, a cleaned copy."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from PIL import Image
from planting import encoded

from mmcl.data import load_all
from mmcl.data.audit.auditing import audit
from mmcl.data.audit.cleaning import dropped_list, write_cleaned
from mmcl.data.audit.listing import write_findings
from mmcl.data.audit.page import audit_page
from mmcl.data.audit.report import FINDINGS
from mmcl.errors import ConfigError, DataError


def picture(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize((96, 88), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits: a leak, a duplicate, an empty file, an empty caption, and good rows."""
    splits = {
        "train": {"a": 0, "b": 1, "copy of b": 1, "leak of z": 9, "broken": None, "wordless": 3, "last": 4},
        "test": {"x": 7, "y": 8, "z": 9},
    }
    for split, rows in splits.items():
        (tmp_path / "data" / split).mkdir(parents=True)
        lines = []
        for name, seed in rows.items():
            content = b"" if seed is None else encoded(picture(seed), "PNG")
            (tmp_path / "data" / split / f"{name}.png").write_bytes(content)
            text = " " if name == "wordless" else f"<b>{name}</b>" if name == "a" else f"this is {name}"
            lines.append(json.dumps({"file_name": f"{name}.png", "text": text, "label": name[0]}))
        (tmp_path / "data" / split / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def test_lists_hold_every_finding(folder: Path, tmp_path: Path) -> None:
    findings = audit(load_all(folder)).findings
    rows = findings.to_pylist()
    assert {row["check"] for row in rows} >= {"leaked_image", "duplicate_image", "unreadable_image", "empty_caption"}
    lines = write_findings(findings, tmp_path / "list.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert parquet.read_table(write_findings(findings, tmp_path / "list.parquet")).to_pylist() == rows
    with write_findings(findings, tmp_path / "list.csv").open(newline="", encoding="utf-8") as file:
        cells = list(csv.DictReader(file))
    assert [cell["place"] for cell in cells] == [row["place"] for row in rows]
    assert [json.loads(cell["related"]) for cell in cells] == [row["related"] for row in rows]
    assert [cell["row"] for cell in cells] == ["" if row["row"] is None else str(row["row"]) for row in rows]


def test_an_empty_list_has_its_columns(tmp_path: Path) -> None:
    for suffix in ("jsonl", "csv", "parquet"):
        path = write_findings(FINDINGS.empty_table(), tmp_path / f"list.{suffix}")
        assert suffix == "jsonl" or b"severity" in path.read_bytes()


def test_lists_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list.txt: want a file that ends in .jsonl, .csv, .parquet"):
        write_findings(FINDINGS.empty_table(), tmp_path / "list.txt")
    with pytest.raises(ConfigError, match="there is no folder"):
        write_findings(FINDINGS.empty_table(), tmp_path / "nowhere" / "list.csv")


def test_the_page_shows_rows_beside_their_twins(folder: Path) -> None:
    splits = load_all(folder)
    html = audit_page(audit(splits), splits).html()
    assert html.count("data:image/webp") >= 4  # the copy and the leak, each with its twin
    assert "leaked_image: 1 found" in html
    assert "33.33 %" in html
    assert "&lt;b&gt;a&lt;/b&gt;" in html
    assert "<b>a</b>" not in html
    few = audit_page(audit(splits), splits, examples=0).html()
    assert "... and 1 more" in few
    assert "data:image/webp" not in few


def test_a_page_of_nothing(folder: Path) -> None:
    splits = {"test": load_all(folder)["test"]}
    assert "nothing was found" in audit_page(audit(splits), splits).html()


def test_the_cleaned_copy_lacks_what_has_to_go(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    splits = load_all(folder)
    counts = write_cleaned(splits, audit(splits), tmp_path / "clean")
    clean = load_all(tmp_path / "clean")
    texts = {split: [data.texts(row)[0] for row in range(len(data))] for split, data in clean.items()}
    assert texts == {
        "train": ["<b>a</b>", "this is b", "this is last"],
        "test": ["this is x", "this is y", "this is z"],
    }
    assert clean["train"].column("label") == ["a", "b", "l"]
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()} == before
    dropped = [json.loads(line) for line in dropped_list(tmp_path / "clean").read_text().splitlines()]
    reasons = {(line["texts"] or [None])[0]: [reason["check"] for reason in line["reasons"]] for line in dropped}
    assert reasons == {
        "this is copy of b": ["duplicate_image"],
        "this is leak of z": ["leaked_image"],
        "this is broken": ["unreadable_image"],
        None: ["empty_caption"],
    }
    assert counts["dropped"] == {
        "empty_caption": 1, "unreadable_image": 1, "leaked_image": 1, "duplicate_image": 1,
    }  # fmt: skip
    assert counts["dropped_rows"] == 4
    again = audit(clean)
    assert again.count("error") == 0
    assert [row["check"] for row in again.findings.to_pylist()] == ["markup_caption"]


def test_nothing_left_and_a_folder_in_use(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    splits = load_all(folder)
    with pytest.raises(ConfigError, match="holds something else"):
        write_cleaned(splits, audit(splits), tmp_path / "used")
    broken = {"train": splits["train"].select([4])}
    with pytest.raises(DataError, match="nothing is left"):
        write_cleaned(broken, audit(broken), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_summary_is_json(folder: Path) -> None:
    summary = json.loads(json.dumps(audit(load_all(folder), name="mine").summary()))
    assert summary["data"] == "mine"
    assert summary["rows"] == {"train": 6, "test": 3}
    assert summary["rows_to_drop"] == {"train": 3, "test": 0}
    assert summary["checks"]["leaked_image"] == {"error": 1}
    assert summary["checks"]["tiny_image"] == {}
    (leak,) = summary["leaks"]
    assert (leak["split"], leak["known_from"], leak["by"], leak["listed"]) == ("test", "train", "image", [2])
