"""Splits by hash: what belongs together stays together, whatever the order, and the shares are met."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mmcl.data.caption_groups import twin_ids
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.files import FileImages
from mmcl.data.shapes import load_shapes
from mmcl.data.shapes.images import ArrayImages
from mmcl.data.splits.leaks import count_leaks
from mmcl.data.splits.splitting import assign_splits, find_units
from mmcl.errors import ConfigError, DataError

SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def made(rows: list[dict], *, files: list[str] | None = None) -> ImageTextDataset:
    """A data set of these cells; images are black, or files that nobody reads."""
    table = pa.Table.from_pylist(rows)
    if files is not None:
        return ImageTextDataset(FileImages("/pictures", pa.array(files)), table, name="made")
    return ImageTextDataset(ArrayImages(np.zeros((len(rows), 1, 1, 3), np.uint8), name="made"), table, name="made")


def random_rows(number: int, seed: int) -> list[dict]:
    """Rows that are tied by chance, through groups, brands and captions, some of which are missing."""
    draw = np.random.default_rng(seed)
    rows = []
    for row in range(number):
        texts = [f"caption {draw.integers(2 * number)}" for _ in range(draw.integers(1, 3))]
        group = None if draw.random() < 0.3 else f"group {draw.integers(number)}"
        brand = None if draw.random() < 0.3 else f"brand {draw.integers(2 * number)}"
        rows.append({"id": f"row {row}", "texts": texts, "group": group, "brand": brand})
    return rows


def naive_units(rows: list[dict], *, keys: list[str], captions: bool) -> list[set[int]]:
    """Union-find by hand: sets of rows that any value ties, directly or not."""
    parent = list(range(len(rows)))

    def root(row: int) -> int:
        while parent[row] != row:
            row = parent[row]
        return row

    for one, first in enumerate(rows):
        for other in range(one):
            second = rows[other]
            tied = any(first[key] is not None and first[key] == second[key] for key in keys)
            if tied or (captions and set(first["texts"]) & set(second["texts"])):
                parent[root(one)] = root(other)
    units: dict[int, set[int]] = {}
    for row in range(len(rows)):
        units.setdefault(root(row), set()).add(row)
    return sorted(units.values(), key=min)


@pytest.mark.parametrize(("by", "captions"), [(None, True), ("brand", True), ("brand", False), (None, False)])
def test_units_are_those_of_a_naive_union_find(by: str | None, captions: bool) -> None:
    for seed in range(3):
        rows = random_rows(60, seed)
        of_row = find_units(made(rows), by=by, captions=captions).of_row
        found = [set(np.flatnonzero(of_row == unit).tolist()) for unit in range(of_row.max() + 1)]
        keys = ["group"] if by is None else ["group", by]
        assert sorted(found, key=min) == naive_units(rows, keys=keys, captions=captions)
        assert sorted(found, key=min) != naive_units(rows, keys=[], captions=captions), "control: the columns count"
        assert sorted(found, key=min) != naive_units(rows, keys=keys, captions=not captions), "control: so do captions"


def test_units_by_captions_are_twins() -> None:
    data = load_shapes("train", size=300)
    units = find_units(data).of_row
    assert len(set(zip(units.tolist(), twin_ids(data).tolist()))) == len(set(units.tolist())) < 300


def test_rows_of_one_image_file_stay_together() -> None:
    rows = [{"texts": [f"text {row}"], "label": str(row)} for row in range(5)]
    units = find_units(made(rows, files=["a.png", "b.png", "sub/../a.png", "/pictures/b.png", "c.png"])).of_row
    assert units.tolist() == [0, 1, 0, 1, 2]


def expected_split(key: str, seed: int, shares: dict[str, float]) -> str:
    draw = int.from_bytes(hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()[:8], "big") / 2**64
    for split, share in shares.items():
        draw -= share
        if draw < 0:
            return split
    return ""


def test_a_split_is_the_hash_of_the_units_key() -> None:
    rows = random_rows(200, 5)
    data, shares = made(rows), {"train": 0.5, "validation": 0.2, "test": 0.2}
    for by, captions in (("brand", True), (None, True), (None, False)):
        splits = assign_splits(data, shares, by, 7, captions)
        columns = ["brand", "group"] if by else ["group"]
        for unit in naive_units(rows, keys=columns, captions=captions):
            keys = [f"{c}\x1f{min(v)}" for c in columns if (v := [rows[r][c] for r in unit if rows[r][c] is not None])]
            if captions:
                keys.append(f"caption\x1f{min(text for row in unit for text in rows[row]['texts'])}")
            else:
                keys.append(f"id\x1f{min(rows[row]['id'] for row in unit)}")
            assert {splits[row] for row in unit} == {expected_split(keys[0], 7, shares)}
    assert "" in splits, "a tenth is left over"


def test_no_group_no_caption_stands_in_two_splits() -> None:
    data = load_shapes("train", size=600)
    splits = assign_splits(data, SHARES)
    parts = {name: data.select(np.flatnonzero(splits == name)) for name in SHARES}
    assert sum(map(len, parts.values())) == 600
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert count_leaks(parts[first], parts[second]) == {"captions": 0, "groups": 0, "either": 0}
    # A control: rows drawn one by one leak, and without captions captions do.
    drawn = np.random.default_rng(0).permutation(600)
    leaks = count_leaks(data.select(drawn[:480]), data.select(drawn[480:]))
    assert leaks["groups"] > 0
    assert leaks["captions"] > 0
    twins = made([{"texts": [f"text {row // 2}"], "group": str(row)} for row in range(400)])
    loose = assign_splits(twins, SHARES, captions=False)
    assert count_leaks(*(twins.select(np.flatnonzero(loose == name)) for name in ("train", "test")))["captions"] > 0


def test_order_and_further_rows_do_not_matter() -> None:
    rows = random_rows(300, 1)
    splits = dict(zip((row["id"] for row in rows), assign_splits(made(rows), SHARES).tolist()))
    mixed = [rows[place] for place in np.random.default_rng(0).permutation(300)]
    assert dict(zip((row["id"] for row in mixed), assign_splits(made(mixed), SHARES).tolist())) == splits
    more = [{"id": f"new {n}", "texts": [f"new {n}"], "group": f"z{n}", "brand": None} for n in range(200)]
    grown = dict(zip((row["id"] for row in rows + more), assign_splits(made(rows + more), SHARES).tolist()))
    assert {name: split for name, split in grown.items() if name in splits} == splits
    assert assign_splits(made(rows), SHARES, seed=1).tolist() != list(splits.values())
    assert assign_splits(made(rows), dict(reversed(SHARES.items()))).tolist() == list(splits.values())


def test_shares_are_met_but_for_chance() -> None:
    data = made([{"texts": [f"text {row}"]} for row in range(20_000)])
    for seed in range(3):
        counts = Counter(assign_splits(data, SHARES, seed=seed).tolist())
        for name, share in SHARES.items():
            spread = (20_000 * share * (1 - share)) ** 0.5
            assert abs(counts[name] - 20_000 * share) < 4 * spread
    # Splits of two seeds are independent: of those in one test split a tenth is in the other.
    one, other = (assign_splits(data, SHARES, seed=seed) == "test" for seed in (0, 1))
    assert abs((one & other).sum() / one.sum() - 0.1) < 0.03


def test_what_is_left_over_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = made([{"texts": [f"text {row}"]} for row in range(100)])
    splits = assign_splits(data, {"train": 0.5, "test": 0.2})
    unused = int((splits == "").sum())
    assert unused > 0
    assert f"{unused} of 100 rows are in none of the splits train" in caplog.text
    caplog.clear()
    third = 1 / 3
    assert "" not in assign_splits(data, {"train": third, "val": third, "test": third})
    assert caplog.text == ""


def test_a_caption_that_glues_is_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"texts": ["product photo" if row % 5 < 3 else f"text {row}"], "id": str(row)} for row in range(200)]
    with caplog.at_level(logging.WARNING):
        glued = assign_splits(made(rows), {"train": 0.6, "test": 0.4})
    assert "120 of 200 rows (60 %) hang together" in caplog.text
    assert "120, have the caption 'product photo'; &captions=false" in caplog.text
    assert len(set(glued[[row % 5 < 3 for row in range(200)]])) == 1
    caplog.clear()
    loose = assign_splits(made(rows), {"train": 0.6, "test": 0.4}, captions=False)
    assert caplog.text == ""
    assert abs((loose == "train").sum() - 120) < 4 * (200 * 0.24) ** 0.5
    nameless = made([{"texts": row["texts"]} for row in rows])
    assert set(assign_splits(nameless, {"train": 0.6, "test": 0.4}, captions=False)[:50]) == {"train", "test"}
    grouped = made([{**row, "group": "g" if int(row["id"]) < 50 else row["id"]} for row in rows])
    assign_splits(grouped, {"train": 0.5, "test": 0.5}, captions=False)
    assert "50 of 200 rows (25 %)" in caplog.text
    assert "the group 'g'" in caplog.text
    assert "captions=false" not in caplog.text


def test_captions_that_are_classes_are_told(caplog: pytest.LogCaptureFixture) -> None:
    data = made([{"texts": [f"class {row % 20}"], "id": str(row)} for row in range(400)])
    splits = assign_splits(data, {"train": 0.6, "test": 0.4})
    assert "its 400 rows have 20 captions in all, so these are shared out, as classes are" in caplog.text
    assert all(len(set(splits[number::20])) == 1 for number in range(20))
    caplog.clear()
    splits = assign_splits(data, {"train": 0.6, "test": 0.4}, captions=False)
    assert all(set(splits[number::20]) == {"train", "test"} for number in range(20))
    assign_splits(made([{"texts": [f"text {row % 50}"]} for row in range(400)]), {"train": 0.6, "test": 0.4})
    assert caplog.text == "", "eight rows a caption are no class"


def test_what_cannot_be_split_is_told(tmp_path: Path) -> None:
    data = made([{"texts": [f"text {row}"], "brand": "b", "tags": ["t"]} for row in range(4)])
    with pytest.raises(DataError, match=r"no row falls into the split 'train' .* 4 rows in 1 unit"):
        assign_splits(data, {"train": 0.5, "test": 0.5}, "brand", 1)
    with pytest.raises(ConfigError, match="no column 'brnd' to split by; .* did you mean 'brand'"):
        assign_splits(data, SHARES, "brnd")
    with pytest.raises(ConfigError, match="'tags' holds list"):
        assign_splits(data, SHARES, "tags")
    with pytest.raises(ConfigError, match="add up to 1.2"):
        assign_splits(data, {"train": 0.9, "test": 0.3})
    with pytest.raises(ConfigError, match="test=0 is no share"):
        assign_splits(data, {"train": 0.9, "test": 0})
    with pytest.raises(ConfigError, match="train=nan is no share"):
        assign_splits(data, {"train": float("nan")})
    with pytest.raises(ConfigError, match="no shares"):
        assign_splits(data, {})
    with pytest.raises(ConfigError, match="two of val, validation are the same split"):
        assign_splits(data, {"val": 0.1, "validation": 0.1})
