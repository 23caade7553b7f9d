"""Options behind a reference, and the splits that they give to any source."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from stored_items import write_csv, write_images, write_json_lines

from mmcl.data import available_splits, load, load_all, parse_reference
from mmcl.data.sources.options import split_options, whole_number, yes_or_no
from mmcl.data.sources.tables import tables
from mmcl.data.splits.leaks import count_leaks
from mmcl.data.splits.splitting import assign_splits
from mmcl.errors import ConfigError, DataError

SHARES = "train=0.6&validation=0.2&test=0.2"


@pytest.fixture
def products(tmp_path: Path) -> Path:
    """Sixty rows of twenty brands, without splits; their images are named, and nowhere."""
    rows = [
        {"file_name": f"{row}.png", "title": f"thing {row}", "brand": f"brand {row % 20}", "shop": str(row % 2)}
        for row in range(60)
    ]
    return write_csv(tmp_path / "products.csv", rows)


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("a/b.csv", ("a/b.csv", {})),
        ("a/b.csv?by=brand&seed=1", ("a/b.csv", {"by": "brand", "seed": "1"})),
        ("a/b.csv?splits=c+d/e%26f.csv", ("a/b.csv", {"splits": "c+d/e&f.csv"})),
        ("owner/name@main?config=en", ("owner/name@main", {"config": "en"})),
    ],
)
def test_options_are_taken_apart(reference: str, expected: tuple) -> None:
    assert split_options(reference) == expected
    assert tuple(parse_reference(f"{reference}:test")) == (reference, "test")


def test_wrong_options_are_told(tmp_path: Path) -> None:
    (tmp_path / "what?.csv").write_text("")
    assert split_options(str(tmp_path / "what?.csv")) == (str(tmp_path / "what?.csv"), {})
    with pytest.raises(ConfigError, match="'by' has no value; write by=VALUE"):
        split_options("a.csv?by")
    with pytest.raises(ConfigError, match="'seed' stands twice"):
        split_options("a.csv?seed=1&seed=2")
    with pytest.raises(ConfigError, match="seed='-1' is no whole number"):
        whole_number("a.csv", {"seed": "-1"}, "seed", 0)
    with pytest.raises(ConfigError, match="captions='perhaps' is neither true nor false"):
        yes_or_no("a.csv", {"captions": "perhaps"}, "captions", default=True)
    assert [yes_or_no("a", {"k": word}, "k", default=True) for word in ("False", "yes", "0")] == [False, True, False]


def test_any_source_gets_splits_by_shares(products: Path) -> None:
    data, columns = f"{products}?{SHARES}", {"text": "title"}
    assert available_splits(data, columns=columns) == ["train", "validation", "test"]
    parts = load_all(data, columns=columns)
    whole = load(products, columns=columns)
    expected = assign_splits(whole, {"train": 0.6, "validation": 0.2, "test": 0.2})
    for name, part in parts.items():
        assert part.column("id") == [f"{row}.png" for row in np.flatnonzero(expected == name)]
        assert part.name == f"{data}:{name}"
        assert load(f"{data}:{name}", columns=columns).column("id") == part.column("id")
    assert load(data, split="val", columns=columns).column("id") == parts["validation"].column("id")
    with pytest.raises(DataError, match="several splits"):
        load(data, columns=columns)
    other = load_all(f"{data}&seed=2", columns=columns)
    assert {name: part.column("id") for name, part in other.items()} != {n: p.column("id") for n, p in parts.items()}


def test_by_keeps_a_column_together_under_either_of_its_names(products: Path) -> None:
    data = f"{products}?{SHARES}&by=brand"
    for columns in ({"text": "title"}, {"text": "title", "label": "brand"}):
        parts = load_all(data, columns=columns)
        name = "label" if "label" in columns else "brand"
        brands = [set(part.column(name)) for part in parts.values()]
        assert sum(map(len, brands)) == len(set.union(*brands)) == 20
    loose = load_all(f"{products}?{SHARES}", columns={"text": "title"})
    brands = [set(part.column("brand")) for part in loose.values()]
    assert sum(map(len, brands)) > 20, "control: without by brands stand in several splits"


@pytest.mark.parametrize("kind", ["metadata", "csv", "parquet_bytes", "sidecars", "karpathy", "shards"])
def test_every_source_takes_the_options(kind: str, stored: dict[str, str]) -> None:
    parts = load_all(f"{stored[kind]}?train=0.5&test=0.5&seed=3&resplit=true")
    whole = load(stored[kind])
    texts = [texts for part in parts.values() for texts in part.column("texts")]
    assert list(parts) == ["train", "test"]
    assert sorted(texts) == sorted(whole.column("texts"))
    assert count_leaks(*parts.values())["either"] == 0
    for part in parts.values():
        for row in range(len(part)):
            place = whole.column("texts").index(part.texts(row))
            assert (part.images.read(row) == whole.images.read(place)).all()


@pytest.fixture
def with_splits(tmp_path: Path, items: list) -> Path:
    write_images(tmp_path, items)
    splits = ["train", "train", "train", "val", "test", ""]
    rows = [{"path": i.name, "caption": i.texts[0], "split": split} for i, split in zip(items, splits)]
    return write_csv(tmp_path / "table.csv", rows)


def test_splits_of_its_own_are_not_undone_unasked(with_splits: Path, items: list, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"splits already \(train, validation, test\).*&resplit=true"):
        load(f"{with_splits}?train=0.5&test=0.5:train")
    parts = load_all(f"{with_splits}?train=0.5&test=0.5&resplit=true")
    assert sorted(i for part in parts.values() for i in part.column("id")) == [f"{n}.png" for n in range(6)]
    assert [set(part.column("split")) for part in parts.values()] == [{"train"}, {"test"}]
    # Splits that are folders are read one after another.
    for split, some in (("train", items[:4]), ("test", items[4:])):
        write_images(tmp_path / "folders" / split, some)
        lines = [{"file_name": i.name, "text": i.texts, "group": f"pair {items.index(i) % 3}"} for i in some]
        write_json_lines(tmp_path / "folders" / split / "metadata.jsonl", lines)
    parts = load_all(f"{tmp_path / 'folders'}?train=0.5&test=0.5&resplit=true")
    assert sum(map(len, parts.values())) == 6
    assert not set(parts["train"].column("group")) & set(parts["test"].column("group"))
    for part in parts.values():
        for row in range(len(part)):
            assert part.images.read(row).shape[1:] == next(
                i.pixels.shape[:2] for i in items if i.texts == part.texts(row)
            )


def test_a_file_says_the_splits(products: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": f"{row}.png", "split": "val" if row % 3 == 0 else "train"} for row in range(50)]
    rows += [{"id": "nowhere.png", "split": "train"}]
    for path in (write_csv(tmp_path / "s.csv", rows), write_json_lines(tmp_path / "s.jsonl", rows)):
        caplog.clear()
        parts = load_all(f"{products}?splits={path}", columns={"text": "title"})
        assert list(parts) == ["train", "validation"]
        assert parts["validation"].column("id") == [f"{row}.png" for row in range(0, 50, 3)]
        assert "10 of 60 rows are in no split" in caplog.text
        assert "1 of its ids are none of" in caplog.text
    named = write_csv(tmp_path / "n.csv", [{"file_name": row["id"], "split": row["split"]} for row in rows])
    assert len(load(f"{products}?splits={named}:train", columns={"text": "title"})) == 33


def test_a_file_of_splits_joins_shards(stored: dict[str, str], tmp_path: Path) -> None:
    ids = load(stored["shards"]).column("id")
    rows = [{"id": name, "split": "test" if place < 2 else "train"} for place, name in enumerate(ids)]
    path = write_csv(tmp_path / "s.csv", rows)
    assert load(f"{stored['shards']}?splits={path}:test").column("id") == ids[:2]


def test_files_of_splits_that_cannot_be_used_are_told(products: Path, tmp_path: Path) -> None:
    def told(rows: list[dict], match: str) -> None:
        path = write_csv(tmp_path / "s.csv", rows)
        with pytest.raises(DataError, match=match):
            load_all(f"{products}?splits={path}", columns={"text": "title"})

    told([{"id": "0.png", "part": "train"}], "has a column split, and id or file_name; it has id, part")
    told([{"name": "0.png", "split": "train"}], "it has name, split")
    told([{"id": "0.png", "split": "a"}, {"id": "0.png", "split": "b"}], "'0.png' stands in a and in b")
    told([{"id": "0", "split": "train"}], "none of its 1 ids .* it has such as '0', the data such as '0.png'")
    told([{"id": "0.png", "split": " "}], "no row has both an id and a split")
    with pytest.raises(DataError, match="there is no file"):
        load_all(f"{products}?splits={tmp_path / 'none.csv'}", columns={"text": "title"})


def test_options_that_do_not_go_together_are_told(products: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told(options: str, match: str, split: str = ":train") -> None:
        with pytest.raises(ConfigError, match=match):
            load(f"{products}?{options}{split}", columns={"text": "title"})

    told("trian=0.8", "unknown option 'trian'.*did you mean 'train'")
    told("train=most", "train='most' is no share")
    told("train=0.9&test=0.2", "add up to 1.1")
    told("by=brand", "by goes with shares")
    told("splits=a.csv&train=0.5", "train goes without it")
    told("train=0.5&test=0.5&by=brnd", "did you mean 'brand'")
    with pytest.raises(ConfigError, match="unknown option 'trai'; known are config.*did you mean 'train'"):
        load("owner/name?trai=3:train")
    with pytest.raises(DataError, match="no row falls into the split 'test'"):
        load(f"{products}?train=0.99&test=0.0001:train", columns={"text": "title"})
    with caplog.at_level(logging.INFO):
        load(f"{products}?train=0.5:train", columns={"text": "title"})
    assert "rows are in none of the splits" in caplog.text


def test_a_table_is_read_once_for_all_its_splits(with_splits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, times = tables.read_csv, []
    monkeypatch.setattr(tables, "read_csv", lambda *a, **k: times.append(1) or read(*a, **k))
    assert list(load_all(with_splits)) == ["train", "validation", "test"]
    assert len(times) == 1
    load_all(f"{with_splits}?train=0.5&test=0.5&resplit=true")
    assert len(times) == 2
    load(f"{with_splits}:train")
    load(f"{with_splits}:test")
    assert len(times) == 4, "control: each load reads"
