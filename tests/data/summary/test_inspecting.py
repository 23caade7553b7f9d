"""Inspections of whole data sets: hints with their reasons, figures side by side, the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from stored_items import encode

from mmcl import data
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.shapes.images import ArrayImages
from mmcl.data.summary import page as page_module
from mmcl.data.summary.figures import column_rows, percent, sections, value_rows
from mmcl.data.summary.inspecting import Inspection, inspect_splits, named_splits
from mmcl.data.summary.page import sample_items, summary_page
from mmcl.errors import MissingDependencyError

LONG = "a man in a red coat stands beside a small wooden house and looks at the mountains behind the lake"


def make(texts: list[str], **columns: list) -> ImageTextDataset:
    table = pa.table({"texts": pa.array([[text] for text in texts], pa.list_(pa.string())), **columns})
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(texts), 40, 40, 3), dtype=np.uint8)
    return ImageTextDataset(ArrayImages(pixels, name="made"), table, name="made")


def names(inspection: Inspection) -> dict[str, str]:
    """Name of a hint -> split, what was found and what to do, as one text."""
    return {hint.name: str(hint) for hint in inspection.hints}


def clean(size: int = 1_200) -> ImageTextDataset:
    return make([f"{LONG} number {row}" for row in range(size)])


def test_clean_splits_leave_little_to_say() -> None:
    splits = {"train": clean(), "validation": make(["ein Hund läuft durch den Schnee im Wald"]), "test": clean(3)}
    splits["test"] = make(["un chien court dans la neige de la forêt", "une femme lit un livre dans un café de Paris"])
    inspection = inspect_splits(splits, data="x", sample_images=10)
    assert names(inspection) == {}
    assert [looked.num_rows for looked in inspection.scans.values()] == [10, 1, 2]


@pytest.mark.parametrize(
    ("name", "splits", "told"),
    [
        ("no_validation", {"train": clean(5)}, "no validation split.*holdout_share"),
        ("no_test", {"train": clean(5)}, "no test split"),
        ("one_language", {"train": clean(5)}, r"\(en, a guess\).*multilingual"),
        ("few_rows", {None: clean(5)}, "all: There are 5 rows.*finetune_clip"),
        ("overlap", {"train": clean(5), "test": clean(4)}, "in train and in test: 4, on 4 of the 4 rows.*audit"),
        ("equal_captions", {"train": make(["a dog on a lawn"] * 40)}, "780.0 pairs.*loss.positives=group"),
        ("false_negatives", {"train": make(["a dog on a lawn"] * 40, group=pa.array(list(map(str, range(40)))))},
         "batch of 40, 780.0 pairs of different groups.*batches.name=unique_groups"),
        ("boilerplate", {"train": make(["image.jpg"] * 12 + [LONG])}, r"'image.jpg' stands on 12 rows \(92.3 %\)"),
        ("short_captions", {"train": make(["dog", "cat", "red house"])}, "at most 1 words.*Add what else"),
        ("short_captions", {"train": make(["dog", "cat"], tags=[["a"], ["b"]])}, "tags_probability"),
        ("long_captions", {"train": make([LONG * 9, LONG])}, "About 50.0 % of the captions pass 77.*max_length"),
        ("large_class", {"train": make(["a"] * 10, label=["x"] * 9 + ["y"])}, "'x' holds 90.0 %.*balanced"),
    ],
)  # fmt: skip
def test_each_hint_has_its_number_and_next_step(name: str, splits: dict, told: str) -> None:
    found = names(inspect_splits(splits, data="x", sample_images=0))
    assert name in found
    assert re.search(told, found[name]), found[name]


@pytest.mark.parametrize("absent", ["large_class", "boilerplate", "long_captions", "overlap", "false_negatives"])
def test_hints_stay_away_without_their_reason(absent: str) -> None:
    rows = [f"{LONG} {row}" for row in range(20)]
    splits = {"train": make(rows, label=list("ab") * 10), "test": make([row.upper() for row in rows])}
    splits["train"] = make(rows, label=["a", "b", "c", "d"] * 5)
    assert absent not in names(inspect_splits(splits, data="x", sample_images=0))


def test_one_split_alone_misses_no_other() -> None:
    found = names(inspect_splits({"test": clean(5)}, data="x:test", whole=False, sample_images=0))
    assert not {"no_test", "no_validation"} & set(found)


def test_bad_images_are_told() -> None:
    files = [encode(Image.new("RGB", (20, 900), "red")), b"none", encode(Image.new("RGB", (900, 900), "red"))]
    files.append(encode(Image.fromarray(np.random.default_rng(0).integers(0, 60, (900, 950, 3), dtype=np.uint8))))
    files.append(files[-1])
    images = BytesImages(pa.chunked_array([pa.array(files)]), source="made", root=Path())
    dataset = ImageTextDataset(images, pa.table({"texts": [["a"]] * 5}), name="made")
    found = names(inspect_splits({None: dataset}, data="x", sample_images=None))
    assert "cannot be read: 1 of the 5 looked at" in found["unreadable_images"]
    assert "--fix OUT" in found["unreadable_images"]
    assert "under 32 pixels: 1 of the 5 looked at" in found["tiny_images"]
    assert "2 of the 5" in found["blank_images"]
    assert "1 of the 5" in found["repeated_images"]
    assert "--resize 256" in found["large_images"]


def test_vectors_have_no_images_to_look_at(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", image=np.eye(3), text=np.eye(3))
    inspection = inspect_splits(data.load_all(f"vectors:{tmp_path / 'v.npz'}"), data="vectors")
    assert (inspection.scans, inspection.summaries["all"].images, inspection.summaries["all"].rows) == ({}, None, 3)


def test_figures_stand_in_one_column_a_split() -> None:
    inspection = inspect_splits({"train": clean(30), "test": make(["a", "b"], label=["x", "y"])}, data="x")
    found = {section.title: {row[0]: row[1:] for row in section.rows} for section in sections(inspection.summaries)}
    assert found["Rows"]["rows"] == ["30", "2"]
    assert found["Labels"]["classes"] == ["–", "2"]
    assert found["Images"]["width: min / median / 95 % / max"] == ["40 / 40 / 40 / 40"] * 2
    assert "Domains, tags, sources" not in found
    assert "Images" not in {s.title for s in sections(inspection.summaries, images=False)}
    assert column_rows(inspection.summaries) == [["label", "string", "–", "100.0 %"]]
    mixed = inspect_splits({None: make(["a", "b"], source=["one", "two"], license=["mit", None])}, data="x")
    last = {row[0]: row[1] for section in sections(mixed.summaries) for row in section.rows}
    assert (last["sources"], last["licences"]) == ("one 1, two 1", "mit 1")
    labels = {split: summary.labels for split, summary in inspection.summaries.items()}
    assert value_rows(labels, shown=1) == [["x", "–", "1"]]


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0.0 %"), (1, "100.0 %"), (0.0001, "< 0.1 %"), (0.9999, "> 99.9 %"), (0.123, "12.3 %")]
)
def test_shares_never_claim_none_or_all(share: float, text: str) -> None:
    assert percent(share) == text


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_figures_histograms_and_rows() -> None:
    splits = {"train": data.load("shapes?train=40:train"), "test": data.load("shapes?test=20:test")}
    splits["test"].table = splits["test"].table.set_column(
        splits["test"].table.column_names.index("texts"), "texts", pa.array([["<script>alert(1)</script>"]] * 20)
    )
    inspection = inspect_splits(splits, data="shapes")
    page = summary_page(
        inspection.summaries, named_splits(splits), title="shapes", hints=inspection.hints,
        overlaps=inspection.overlaps, scans=inspection.scans, samples=7,
    )  # fmt: skip
    read = Reader(page.html())
    assert read.tags.count("img") == 14
    assert read.tags.count("svg") == 3
    assert "script" not in read.tags
    for hint in inspection.hints:
        assert hint.found in read.text


def test_the_page_works_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise MissingDependencyError("matplotlib is not installed")

    monkeypatch.setattr(page_module, "draw_bars", missing)
    splits = {"all": clean(5)}
    inspection = inspect_splits(splits, data="x")
    read = Reader(summary_page(inspection.summaries, splits, title="x", samples=2).html())
    assert "No histograms: matplotlib is not installed" in read.text
    assert read.tags.count("img") == 2
    assert "table" in read.tags


def test_unreadable_samples_say_why() -> None:
    images = BytesImages(pa.chunked_array([pa.array([b"none"])]), source="made", root=Path())
    items = sample_items(ImageTextDataset(images, pa.table({"texts": [["a dog"]]}), name="made"), 3)
    assert len(items) == 1
    assert items[0].image is None
    assert "a dog" in items[0].text
    assert "not an image" in items[0].text
