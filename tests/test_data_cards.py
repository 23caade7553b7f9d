"""The data cards that ship: one for the data of every recipe, each complete and valid, with the figures of the data."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mmcl import data
from mmcl.data.cards import check_card
from mmcl.data.cards.checks import REQUIRED_SECTIONS
from mmcl.data.cards.front_matter import REQUIRED_KEYS, read_front_matter
from mmcl.data.cards.measured import find_blocks, measured_blocks
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.shapes import dataset as shapes_dataset
from mmcl.data.summary.inspecting import inspect_splits, named_splits

ROOT = Path(__file__).resolve().parents[1]
CARDS = sorted((ROOT / "data_cards").glob("*.md"))
RECIPES = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))
EMOJI = ROOT.parent / "shared" / "data" / "emoji"

per_card = pytest.mark.parametrize("path", CARDS, ids=lambda path: path.stem)

# A card with one fault of each kind, and what each must be called.
FAULTY = """---
pretty_name: Faulty
license: cc-by-5.0
language: [english]
task_categories: [image-to-texts]
size_categories: [few]
---
# Faulty

## Figures
A table of rows.

## Getting and loading it
See [the layout](layout/none.md).

## Columns

## How it was made
> **Please answer:** by whom?

## Licences and credits
As they are, by nobody.

## Limits and biases
None are known here.
"""
FAULTS = {
    "license": "'cc-by-5.0' is no licence of the Hub",
    "language": "'english' is no ISO 639-1 code",
    "task_categories": "'image-to-texts' is no task of the Hub; did you mean 'image-to-text'",
    "size_categories": "'few' is no size category",
    "link": "layout/none.md leads to no file",
    "Columns": "the section is empty",
    "How it was made": "a question is not answered yet",
    "People and consent": "the section is missing",
    "What was checked": "the section is missing",
}


def test_all_cards_are_found() -> None:
    # Written out: a card that is lost must be noticed.
    assert [path.stem for path in CARDS] == ["cc3m", "coco", "digits", "emoji", "flickr30k", "shapes", "your_pairs"]


def test_what_a_card_must_have_is_written_out() -> None:
    assert REQUIRED_KEYS == ("pretty_name", "license", "language", "task_categories", "size_categories")
    assert list(REQUIRED_SECTIONS) == [
        "Figures", "Getting and loading it", "Columns", "How it was made", "Licences and credits",
        "People and consent", "Limits and biases", "What was checked",
    ]  # fmt: skip


@per_card
def test_it_is_complete_and_valid(path: Path) -> None:
    assert [str(fault) for fault in check_card(path.read_text(encoding="utf-8"), folder=path.parent)] == []


@per_card
def test_the_hub_library_reads_it(path: Path) -> None:
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(path, ignore_metadata_errors=False)
    assert card.data.to_dict() == read_front_matter(path.read_text(encoding="utf-8")).values
    assert card.text.lstrip().startswith("# ")


def test_a_faulty_card_fails_by_name() -> None:
    faults = check_card(FAULTY, folder=ROOT / "data_cards")
    assert sorted(fault.about for fault in faults) == sorted(FAULTS)
    for fault in faults:
        assert fault.problem.startswith(FAULTS[fault.about]), fault
    by_line = {
        fault.about: FAULTY.splitlines()[fault.line - 1] for fault in faults if fault.about in ("license", "link")
    }
    assert by_line == {"license": "license: cc-by-5.0", "link": "See [the layout](layout/none.md)."}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_card_that_names_it(recipe: Path) -> None:
    comments = " ".join(line for line in recipe.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    cards = re.findall(r"data_cards/([\w.]+\.md)", comments)
    assert cards
    for card in cards:
        text = (ROOT / "data_cards" / card).read_text(encoding="utf-8")
        assert re.search(rf"\b{recipe.stem}\b", text), f"{card} does not say that {recipe.stem} reads the data"


def test_every_command_in_a_card_is_one_that_there_is() -> None:
    import typer

    from mmcl.cli.main import app

    groups = typer.main.get_command(app).commands
    named = {words for path in CARDS for words in re.findall(r"\bmmcl (data|eval) (\w+)", path.read_text("utf-8"))}
    assert {("data", "inspect"), ("data", "audit"), ("data", "card"), ("data", "make")} <= named
    assert {words for words in named if words[1] not in groups[words[0]].commands} == set()


def blocks_of(path: Path) -> dict[str, str]:
    text = path.read_text(encoding="utf-8")
    return {name: text[start:end].rstrip("\n") for name, (start, end) in find_blocks(text).items()}


def measure(splits: dict[str, ImageTextDataset], *, sample_images: int | None = 0) -> dict[str, str]:
    inspection = inspect_splits(splits, data="x", sample_images=sample_images)
    return measured_blocks(inspection, named_splits(splits), command="mmcl data card x", date="2026-01-01")


def column(table: str, split: str) -> list[list[str]]:
    """[first cell, the split's cell] of every line; lines that have nothing for the split are left out."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:1] == "|"]
    place = next(line.index(split) for line in lines if split in line)
    return [[line[0], line[place]] for line in lines if len(line) > place and line[place] != "–"]


def test_the_emoji_card_says_what_the_data_say() -> None:
    if not EMOJI.is_dir():
        pytest.skip("the emoji data is not at hand")
    written, splits = blocks_of(ROOT / "data_cards" / "emoji.md"), data.load_all(EMOJI)
    found = measure(splits)
    for name in ("figures", "columns", "examples", "licences"):
        assert written[name] == found[name], name
    assert "by `mmcl data card data/emoji -o CARD.md --update --all-images`" in written["measured"]
    images = measure({"validation": splits["validation"]}, sample_images=None)["images"]
    assert column(written["images"], "validation") == column(images, "validation")
    rows = {split: len(rows) for split, rows in splits.items()}
    text = (ROOT / "data_cards" / "emoji.md").read_text(encoding="utf-8")
    assert f"{sum(rows.values()):,} images: {sum(rows.values()) // 2:,} emoji" in text
    control = measure({**splits, "test": splits["test"].select(range(685))})
    assert control["figures"] != written["figures"]


def test_the_shapes_card_says_what_the_data_say(monkeypatch: pytest.MonkeyPatch) -> None:
    written = blocks_of(ROOT / "data_cards" / "shapes.md")
    # Captions and groups do not depend on pixels, which take the time; nor are the 32,000 scenes of train drawn here.
    monkeypatch.setattr(
        shapes_dataset, "draw", lambda pictures, size: np.zeros((len(pictures), size, size, 3), np.uint8)
    )
    galleries = {split: data.load(f"shapes:{split}") for split in ("validation", "test", "test_seen")}
    found = measure(galleries)
    for split in galleries:
        assert sorted(column(written["figures"], split)) == sorted(column(found["figures"], split))
        assert column(written["columns"], f"filled in {split}") == column(found["columns"], f"filled in {split}")
    assert ["rows", f"{shapes_dataset.DEFAULT_SIZES['train']:,}"] in column(written["figures"], "train")
    assert written["licences"] == found["licences"]
    assert "by `mmcl data card shapes -o CARD.md --update" in written["measured"]
    other = measure({"validation": data.load("shapes?seed=1:validation")})["figures"]
    assert sorted(column(other, "validation")) != sorted(column(written["figures"], "validation"))
