"""Fifty problems planted into a copy of real data: found, and next to nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planting import Copy, plant_fifty
from torch import Tensor

from mmcl.data import load_all
from mmcl.data.audit.auditing import audit
from mmcl.data.audit.report import AuditReport
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.offline_mining import Embed

DIM, NOISE = 64, 0.7  # own pairs have a cosine of 0.67, random ones of 0 with a deviation of 0.12


def vector(name: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(DIM)
    return drawn / np.linalg.norm(drawn)


def stand_in(copy: Copy, original: Path) -> Embed:
    """A model that sees what an image really shows, and knows what a caption was written for, with noise of its own."""
    meant = {}
    for split in copy.rows:
        for line in (original / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            meant[row["text"].lower()] = row["group"]

    def unit(rows: list[np.ndarray]) -> Tensor:
        made = torch.from_numpy(np.stack(rows)).float()
        return made / made.norm(dim=1, keepdim=True)

    def texts(given: list[str]) -> Tensor:
        plain = [text.lower().rstrip(".") for text in given]
        return unit([vector(meant.get(text, text)) + NOISE * vector(f"text {text}") for text in plain])

    def images(data: ImageTextDataset) -> tuple[Tensor, np.ndarray]:
        files = [Path(data.images.describe(row)).name for row in range(len(data))]
        return unit([vector(copy.concept[f]) + NOISE * vector(f"image {f}") for f in files]), np.arange(len(files))

    return Embed(DIM, texts=texts, images=images)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Copy, dict[str, ImageTextDataset], AuditReport]:
    original = Path(__file__).parents[4] / "shared/data/emoji"
    if not original.is_dir():
        pytest.skip("the emoji data is not at hand")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMCL_CACHE", str(tmp_path_factory.mktemp("cache")))
        copy = plant_fifty(original, tmp_path_factory.mktemp("planted"), seed=0)
        splits = load_all(copy.folder)
        return copy, splits, audit(splits, embed=stand_in(copy, original))


def checks_of(copy: Copy, report: AuditReport) -> dict[tuple[str, str], set[str]]:
    """(split, file) -> the checks that found it; rows left out by the reader are told by their line."""
    found: dict[tuple[str, str], set[str]] = {}
    for finding in report.findings.to_pylist():
        path, _, line = finding["place"].partition(".jsonl:")
        split = Path(path).parent.name
        file = copy.rows[split][int(line) - 1]["file_name"] if line else Path(path).name
        found.setdefault((split, file), set()).add(finding["check"])
    return found


def test_the_planted_are_found(audited) -> None:
    copy, _, report = audited
    found = checks_of(copy, report)
    missed = [plant for plant in copy.plants if not found.get((plant.split, plant.file), set()) & set(plant.checks)]
    assert len(copy.plants) == 50
    assert len(missed) <= 2, missed


def test_next_to_nothing_else_is_flagged(audited) -> None:
    copy, splits, report = audited
    planted = {(plant.split, plant.file) for plant in copy.plants}
    files = [
        (split, path.name, hashlib.sha256(path.read_bytes()).digest())
        for split in splits
        for path in sorted((copy.folder / split).glob("*.webp"))
        if (split, path.name) not in planted
    ]
    seen: dict[bytes, int] = {}
    for _, _, digest in files:
        seen[digest] = seen.get(digest, 0) + 1
    # Some pictures of families are equal in every byte and captioned differently: they are no clean rows.
    clean = {(split, name) for split, name, digest in files if seen[digest] == 1}
    flagged = set()
    for split, rows in report.flagged().items():
        flagged |= {(split, Path(splits[split].images.describe(int(row))).name) for row in rows}
    assert len(clean) > 3000
    assert 0 < len(flagged & clean) < 0.01 * len(clean)
    alike = {(split, name) for split, name, _ in files} - clean
    assert len(flagged & alike) > 0.5 * len(alike)


def test_nothing_of_the_test_split_is_dropped_for_a_leak(audited) -> None:
    _, _, report = audited
    drops = report.to_drop()
    assert len(drops["test"]) == 0
    assert len(drops["train"]) >= 20
    leaks = {(leak.held_out, leak.seen, leak.by): len(leak.rows) for leak in report.leaks}
    assert leaks["test", "train", "image"] == 3
    assert leaks["test", "train", "near image"] + leaks.get(("validation", "train", "near image"), 0) >= 7
    assert leaks["test", "train", "caption"] >= 3
    assert leaks["test", "train", "group"] >= 2
    assert all(0 < leak.share < 0.05 for leak in report.leaks)
