"""`mmcl data split`: a file that is DATA itself, or that goes behind DATA."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl.data import load, load_all
from mmcl.data.splits.leaks import count_leaks


@pytest.fixture
def products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Eighty rows: two of each group, three captions each; some rows cannot be used."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "img").mkdir(parents=True)
    lines = []
    for row in range(80):
        Image.new("RGB", (4, 4), (row, 90, 255 - row)).save(tmp_path / "data" / "img" / f"{row}.png")
        texts = [f"{kind} {row}" for kind in ("a", 'a "quoted", long', "ein schönes")]
        cells = {"file_name": f"img/{row}.png", "text": texts, "group": f"g{row // 2}", "brand": f"b{row // 8}"}
        lines.append(json.dumps({**cells, "tags": ["one", "two"], "price": row / 2}))
    lines.append(json.dumps({"file_name": "img/0.png", "text": "", "group": "none"}))
    (tmp_path / "data" / "products.jsonl").write_text("\n".join(lines))
    return "data/products.jsonl"


@pytest.mark.parametrize("name", ["split.csv", "split.tsv", "split.jsonl", "split.parquet", "data/split.jsonl"])
def test_what_is_written_is_data(name: str, products: str, invoke, tmp_path: Path) -> None:
    done = invoke("data", "split", products, "-o", name, "--json", "told.json")
    assert done.code == 0, done.err
    told = json.loads(Path("told.json").read_text())
    assert told["usable_as"] == name
    assert (told["rows"], told["skipped"], told["unused"]) == (80, 1, 0)
    assert "No caption and no group stands in two splits" in done.out
    assert "1 rows cannot be used" in done.out
    whole, parts = load(products), load_all(name)
    assert {split: len(part) for split, part in parts.items()} == {s: c["rows"] for s, c in told["splits"].items()}
    made_here = load_all(f"{products}?train=0.8&validation=0.1&test=0.1")
    places = {identifier: row for row, identifier in enumerate(whole.column("id"))}
    for split, part in parts.items():
        assert part.column("id") == made_here[split].column("id")
        for row, identifier in enumerate(part.column("id")):
            for column in ("texts", "group", "brand", "tags"):
                assert part.value(column, row) == whole.value(column, places[identifier])
            assert float(part.value("price", row)) == whole.value("price", places[identifier])
            assert (part.images.read(row) == whole.images.read(places[identifier])).all()
    assert count_leaks(parts["train"], parts["test"])["either"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"data", "told.json", name.split("/")[0]})


def test_relative_paths_lead_through_links(products: str, invoke, tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    os.symlink(tmp_path / "far" / "away", tmp_path / "link")
    assert invoke("data", "split", products, "-o", "link/split.csv").code == 0
    part = load("link/split.csv:train")
    assert part.images.read(0).shape == (3, 4, 4)
    assert "file_name" in (tmp_path / "far" / "away" / "split.csv").read_text().splitlines()[0]
    assert str(tmp_path) not in (tmp_path / "link" / "split.csv").read_text(), "the folder may move"


def test_shares_column_and_seed_are_taken(products: str, invoke) -> None:
    options = ["--train", "0.5", "--test", "0.2", "--by", "brand", "--seed", "2", "--json", "told.json"]
    done = invoke("data", "split", products, "-o", "split.parquet", *options)
    assert done.code == 0, done.err
    told = json.loads(Path("told.json").read_text())
    assert set(told["splits"]) == {"train", "test"}
    assert told["unused"] == 80 - sum(counts["rows"] for counts in told["splits"].values()) > 0
    assert "(none)" in done.out
    parts = load_all("split.parquet")
    brands = [set(part.column("brand")) for part in parts.values()]
    assert not brands[0] & brands[1]
    same = load_all(f"{products}?train=0.5&test=0.2&by=brand&seed=2")
    assert [part.column("id") for part in parts.values()] == [part.column("id") for part in same.values()]


def test_other_sources_get_ids_and_splits(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scenes = "shapes?train=60&image_size=16"
    done = invoke("data", "split", f"{scenes}:train", "-o", "s.csv", "--train", "0.7", "--test", "0.3")
    assert done.code == 0, done.err
    assert Path("s.csv").read_text().splitlines()[0] == '"id","split"'
    np.savez("v.npz", image=np.eye(60), text=np.eye(60))
    done = invoke("data", "split", "vectors:v.npz", "-o", "v.jsonl", "--train", "0.5", "--test", "0.5")
    assert done.code == 0, done.err
    assert "Use it as DATA: vectors:v.npz?splits=v.jsonl" in done.out
    parts = load_all("vectors:v.npz?splits=v.jsonl")
    same = load_all("vectors:v.npz?train=0.5&test=0.5")
    assert [part.column("id") for part in parts.values()] == [part.column("id") for part in same.values()]


def test_splits_of_their_own_are_kept_unless_said(products: str, invoke) -> None:
    assert invoke("data", "split", products, "-o", "split.csv").code == 0
    done = invoke("data", "split", "split.csv", "-o", "again.csv")
    assert done.code == 2
    assert "has splits already (train, validation, test); --resplit" in done.err
    assert not Path("again.csv").exists()
    assert invoke("data", "split", "split.csv", "-o", "again.csv", "--resplit", "--seed", "1").code == 0
    assert sum(map(len, load_all("again.csv").values())) == 80
    assert load("again.csv:train").column("id") != load("split.csv:train").column("id")
    halves = ["--train", "0.5", "--validation", "0.5"]
    assert invoke("data", "split", "split.csv:train", "-o", "halves.csv", *halves).code == 0
    assert sum(map(len, load_all("halves.csv").values())) == len(load("split.csv:train"))


def test_what_leaks_on_purpose_is_told(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("v.npz", image=np.eye(40), text=np.eye(20), image_group=np.arange(40) % 20, text_group=np.arange(20))
    lines = ["path,text", *(f"{row}.png,product photo" for row in range(40))]
    (tmp_path / "glued.csv").write_text("\n".join(lines))
    done = invoke("data", "split", "glued.csv", "-o", "s.csv", "--train", "0.5", "--test", "0.5")
    assert done.code == 1
    assert "40 of 40 rows (100 %) hang together" in done.err
    assert "no row falls into the split" in done.err
    done = invoke("data", "split", "glued.csv", "-o", "s.csv", "--train", "0.5", "--test", "0.5", "--no-captions")
    assert done.code == 0, done.err
    assert f"train / test: {len(load('s.csv:test'))} rows share a caption and 0 a group" in done.out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["-o", "split.txt"], 2, "ends in .csv, .tsv, .jsonl, .parquet"),
        (["-o", "none/split.csv"], 2, "there is no folder"),
        (["-o", "data/products.jsonl"], 2, "is the data itself; write another file"),
        (["-o", "s.csv", "--by", "brnd"], 2, "did you mean 'brand'"),
        (["-o", "s.csv", "--train", "0.9", "--test", "0.2"], 2, "add up to 1.1"),
        (["-o", "s.csv", "--train", "1.5"], 2, "less than or equal to 1"),
        (["-o", "s.csv", "--test", "0.0001"], 1, "no row falls into the split 'test'"),
        (["-o", "s.csv", "--column", "text=title"], 1, "title"),
        ([], 2, "out"),
    ],
)
def test_mistakes_are_told(arguments: list[str], code: int, named: str, products: str, invoke, tmp_path: Path) -> None:
    before = (tmp_path / products).read_text()
    done = invoke("data", "split", products, *arguments)
    assert (done.code, [path.name for path in tmp_path.iterdir()]) == (code, ["data"])
    assert named in done.err
    assert (tmp_path / products).read_text() == before


def test_rows_that_no_file_can_name_are_told(invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    table = pa.table({"image": pa.array([b"x"] * 30), "text": [f"text {row}" for row in range(30)]})
    pq.write_table(table, "p.parquet")
    done = invoke("data", "split", "p.parquet", "-o", "s.csv")
    assert done.code == 1
    assert "not every row has an id" in done.err
    pq.write_table(table.append_column("id", pa.array(["same"] * 30)), "p.parquet")
    done = invoke("data", "split", "p.parquet", "-o", "s.csv")
    assert done.code == 1
    assert "the id 'same' stands for several rows" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]
