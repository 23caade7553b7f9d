"""Cards written from data: valid, repeatable, loadable by `datasets`, measured again in place, checked by line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from stored_items import encode, write_tar

from mmcl import data
from mmcl.data.cards import CardWords, check_card, update_card, write_card
from mmcl.data.cards.checks import REQUIRED_SECTIONS
from mmcl.data.cards.data_files import data_configs
from mmcl.data.cards.measured import BLOCKS, content_fingerprint, find_blocks, markdown_table, measured_blocks
from mmcl.data.scan.images import scan_images
from mmcl.data.summary.inspecting import inspect_splits, named_splits
from mmcl.errors import ConfigError


def picture(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def write_pairs(folder: Path, *, sizes: dict[str, int], licence: str | None = None) -> Path:
    number = 0
    for split, size in sizes.items():
        (folder / split).mkdir(parents=True)
        lines = []
        for row in range(size):
            picture(number).save(folder / split / f"{row}.png")
            line = {"file_name": f"{row}.png", "text": f"a | *red* [apple] number {number}"}
            lines.append(line | ({"licence": licence} if licence else {}))
            number += 1
        (folder / split / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def card_of(reference: str, words: CardWords | None = None, *, date: str = "2026-01-02") -> tuple[str, dict[str, str]]:
    splits = data.load_all(reference)
    inspection = inspect_splits(splits, data=reference, sample_images=None)
    blocks = measured_blocks(inspection, named_splits(splits), command=f"mmcl data card {reference}", date=date)
    return write_card(inspection, blocks, words or CardWords(languages=["en"])), blocks


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_written_card_lacks_answers_alone(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "red_apples", sizes={"train": 5, "val": 2}, licence="CC-BY-4.0")
    card, _ = card_of(
        str(folder),
        CardWords(languages=["en"], source_urls=["https://example.org/a"], credits=["A. Person"], version="3"),
    )
    faults = check_card(card, folder=tmp_path)
    assert len(faults) == 6
    assert {fault.problem for fault in faults} == {"a question is not answered yet"}
    assert all("Please answer" in card.splitlines()[fault.line - 1] for fault in faults)
    answered = card.replace("**Please answer:**", "")
    assert check_card(answered, folder=tmp_path) == []
    values = front_matter(card)
    assert values["pretty_name"] == "red apples"
    assert (values["license"], values["size_categories"], values["language"]) == ("cc-by-4.0", ["n<1K"], ["en"])
    for words in (
        "<https://example.org/a>",
        "Credit: A. Person",
        "Version 3",
        "| CC-BY-4.0 | cc-by-4.0 | 7 (100.0 %) | yes |",
    ):
        assert words in card
    assert "| rows | 5 | 2 |" in card
    assert "on 2026-01-02 by `mmcl data card" in card


def test_datasets_finds_the_splits_that_the_card_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = write_pairs(tmp_path / "pairs", sizes={"train": 3, "val": 2, "test": 1})
    (folder / "README.md").write_text(card_of(str(folder))[0])
    read = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in read.items()} == {"train": 3, "validation": 2, "test": 1}
    assert read["validation"][0]["text"] == data.load(f"{folder}:validation").texts(0)[0]
    assert read["validation"][0]["image"].size == (40, 40)


@pytest.mark.parametrize("kind", ["parquet", "tar", "data/parquet"])
def test_datasets_finds_the_splits_of_tables_and_shards(kind: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "set" / ("data" if "/" in kind else "")
    folder.mkdir(parents=True)
    for split, size in {"train": 3, "test": 2}.items():
        for part in range(2 if split == "train" else 1):
            files = [encode(picture(row)) for row in range(size)]
            if kind == "tar":
                members = {f"{part}{row}.png": file for row, file in enumerate(files)}
                members |= {f"{part}{row}.txt": b"a dog" for row in range(size)}
                write_tar(folder / f"{split}-{part:03d}.tar", dict(sorted(members.items())))
            else:
                table = pa.table({"image": files, "text": ["a dog"] * size})
                pq.write_table(table, folder / f"{split}-{part}.parquet")
    root = tmp_path / "set"
    configs = data_configs(str(root), ["train", "test"])
    assert [entry["split"] for entry in configs[0]["data_files"]] == ["train", "test"]
    (root / "README.md").write_text(card_of(str(root))[0])
    read = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in read.items()} == {"train": 6, "test": 2}


def test_files_that_cannot_tell_splits_apart_are_not_named(tmp_path: Path) -> None:
    lines = []
    for row, split in enumerate(["train", "test"]):
        picture(row).save(tmp_path / f"{row}.png")
        lines.append({"file_name": f"{row}.png", "text": "a dog", "split": split})
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card, _ = card_of(str(tmp_path))
    assert "configs" not in front_matter(card)
    assert f"mmcl data convert {tmp_path} -o OUT --format parquet" in card
    assert data_configs("shapes", ["train"]) == []
    assert data_configs("owner/name", ["train"]) == []
    assert data_configs(str(tmp_path / "metadata.jsonl"), [None])[0]["data_files"][0]["path"] == "metadata.jsonl"


def test_captions_cannot_break_their_table() -> None:
    table = markdown_table(["text"], [["a | b\n## c <img> `x` [y](z) <!-- mmcl:end -->"], ["x" * 500]])
    assert len(table.splitlines()) == 4
    assert r"a \| b ## c \<img\> \`x\` \[y\](z) \<!-- mmcl:end --\>" in table
    assert "…" in table


def test_measured_blocks_are_renewed_and_words_stay(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", sizes={"train": 3})
    card, blocks = card_of(str(folder))
    assert set(find_blocks(card)) == set(BLOCKS) == set(blocks)
    by_hand = card.replace("## Limits and biases\n", "## Limits and biases\nApples are **red** here.  \n\n")
    by_hand = by_hand.replace("size_categories:\n- n<1K\n", "size_categories:\n- 1M<n<10M\n")
    splits = data.load_all(str(write_pairs(tmp_path / "more", sizes={"train": 4})))
    inspection = inspect_splits(splits, data="more", sample_images=0)
    new = measured_blocks(inspection, named_splits(splits), command="again", date="2027-01-01")
    updated = update_card(by_hand, inspection, new)
    assert "| rows | 4 |" in updated
    assert "| rows | 3 |" not in updated
    assert "Apples are **red** here.  \n" in updated
    assert front_matter(updated)["size_categories"] == ["n<1K"]
    outside = [line for line in card.splitlines() if line not in "\n".join(blocks.values())]
    assert [
        line for line in outside if line not in updated.splitlines() and "1K" not in line and "size" not in line
    ] == []
    assert update_card(updated, inspection, new) == updated
    without = updated.replace("<!-- mmcl:measured examples -->", "<!-- mine -->")
    assert set(find_blocks(update_card(without, inspection, new))) == set(BLOCKS) - {"examples"}


def test_a_mark_without_a_name_holds_the_figures(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", sizes={"train": 3})
    splits = data.load_all(str(folder))
    inspection = inspect_splits(splits, data="x", sample_images=0)
    blocks = measured_blocks(inspection, named_splits(splits), command="c", date="d")
    assert "| rows | 3 |" in update_card("# x\n<!-- mmcl:measured -->\n<!-- mmcl:end -->\n", inspection, blocks)
    with pytest.raises(ConfigError, match="no measured block; want <!-- mmcl:measured NAME -->"):
        update_card("# x\n", inspection, blocks)
    with pytest.raises(ConfigError, match="block 'figure' that mmcl does not know"):
        update_card("<!-- mmcl:measured figure -->\n<!-- mmcl:end -->\n", inspection, blocks)


def test_fingerprints_follow_content_and_not_the_place(tmp_path: Path) -> None:
    one = data.load(write_pairs(tmp_path / "one", sizes={"train": 3}), split="train")
    two = data.load(write_pairs(tmp_path / "two", sizes={"train": 3}), split="train")
    assert one.fingerprint() != two.fingerprint()  # file times differ
    assert content_fingerprint(one, scan_images(one)) == content_fingerprint(two, scan_images(two))
    assert content_fingerprint(one, None) == content_fingerprint(two, scan_images(two.select([0, 1])))
    assert content_fingerprint(one, None)[1] == "captions"
    picture(99).save(tmp_path / "two" / "train" / "0.png")
    changed = data.load(tmp_path / "two", split="train")
    assert content_fingerprint(one, scan_images(one)) != content_fingerprint(changed, scan_images(changed))
    assert content_fingerprint(one, None) == content_fingerprint(changed, None)


def test_shared_images_are_counted_where_all_were_looked_at(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "pairs", sizes={"train": 3, "test": 2})
    (folder / "test" / "0.png").write_bytes((folder / "train" / "1.png").read_bytes())
    card, _ = card_of(str(folder))
    assert "| train and test | 0 | 0 | not known: no column group | 1 |" in card
    splits = data.load_all(str(folder))
    sampled = inspect_splits(splits, data="x", sample_images=2)
    blocks = measured_blocks(sampled, named_splits(splits), command="c", date="d")
    assert "not checked: not all were looked at" in blocks["checked"]
    assert "Of train a sample was looked at" in blocks["images"]


COMPLETE = """---
pretty_name: x
license: mit
language: [en]
task_categories: [image-to-text]
size_categories: [n<1K]
---
# X
""" + "".join(f"\n## {section}\nHere is what it says.\n" for section in REQUIRED_SECTIONS)


@pytest.mark.parametrize(
    ("old", "new", "about", "told"),
    [
        ("license: mit", "license: mine", "license", "is no licence"),
        ("# X\n", "", "title", "there is none"),
        ("## People and consent", "## People", "People and consent", "section is missing"),
        ("## Columns\nHere is what it says.", "## Columns\n<!-- nothing to see here at all -->", "Columns", "is empty"),
        ("## Figures\n", "## Figures\n> **Please answer:** how many?\n", "Figures", "not answered"),
        ("# X\n", "# X\n[gone](none/there.md)\n", "link", "none/there.md leads to no file"),
        ("# X\n", "# X\n![picture](none.png)\n", "link", "none.png leads"),
    ],
)
def test_each_fault_is_found_by_name_and_line(old: str, new: str, about: str, told: str, tmp_path: Path) -> None:
    assert check_card(COMPLETE, folder=tmp_path) == []
    broken = COMPLETE.replace(old, new)
    assert broken != COMPLETE
    faults = check_card(broken, folder=tmp_path)
    assert [fault.about for fault in faults] == [about]
    assert told in faults[0].problem
    assert 1 <= faults[0].line <= len(broken.splitlines()) + 1


def test_code_holds_no_headings_links_or_questions(tmp_path: Path) -> None:
    fenced = COMPLETE + "\n```\n## Columns\n[gone](none.md)\n**Please answer:** x\n```\n"
    assert check_card(fenced, folder=tmp_path) == []
    (tmp_path / "there.md").write_text("")
    linked = COMPLETE + "\n[a](there.md) [b](there.md#part) [c](https://example.org) [d](#figures) <mailto:a@b.c>\n"
    assert check_card(linked, folder=tmp_path) == []
    assert len(check_card(linked, folder=tmp_path / "none")) == 2
    assert check_card(linked) == []


def test_crlf_and_bom_are_read() -> None:
    assert check_card("\ufeff" + COMPLETE) == []
