"""Several data sets as one, by a YAML file."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from stored_items import write_csv, write_images, write_json_lines

from mmcl.config.mixture import mixture_from_tree
from mmcl.data import available_splits, load, load_all
from mmcl.data.mixing import Mixture, sources_of
from mmcl.data.sources.joining import _offset_rows, join_tables
from mmcl.errors import ConfigError, DataError

SHAPES = "shapes?train=20&validation=8&image_size=32"


def write_mixture(folder: Path, sources: list, **keys: object) -> str:
    (folder / "mix.yaml").write_text(yaml.safe_dump({"sources": sources, **keys}))
    return str(folder / "mix.yaml")


@pytest.fixture
def products(tmp_path: Path, items: list) -> Path:
    """Six rows in train and validation, their images in a folder beside."""
    write_images(tmp_path / "img", items)
    rows = [
        {"path": item.name, "title": item.texts[0], "price": f"{place} EUR", "group": "a" * (place < 2), "split": split}
        for place, (item, split) in enumerate(zip(items, ["train"] * 4 + ["val"] * 2))
    ]
    return write_csv(tmp_path / "products.csv", rows)


PRODUCTS = {"path": "products.csv", "columns": {"text": "title"}, "images": "img"}


def test_rows_of_all_sources_stand_in_one_data_set(products: Path, items: list, caplog) -> None:
    with caplog.at_level(logging.INFO):
        data = write_mixture(products.parent, [PRODUCTS, {"path": SHAPES, "name": "scenes"}])
        parts = load_all(data)
    assert list(parts) == ["train", "validation", "test", "test_seen"]
    assert "mix.yaml:test: without rows: products" in caplog.text
    train, scenes = parts["train"], load(f"{SHAPES}:train")
    assert train.name == f"{data}:train"
    assert train.column("source") == ["products"] * 4 + ["scenes"] * 20
    for row in range(4):
        assert torch.equal(train.images.read(row), torch.from_numpy(items[row].pixels).permute(2, 0, 1))
        assert train.texts(row) == items[row].texts[:1]
    for row in range(20):
        assert torch.equal(train.images.read(4 + row), scenes.images.read(row))
        assert train.texts(4 + row) == scenes.texts(row)
    assert train.column("id")[:5] == [*(f"products/{n}.png" for n in range(4)), "scenes/train-000000"]
    assert train.column("price")[3:5] == ["3 EUR", None]
    assert train.column("appearance")[3:5] == [None, scenes.value("appearance", 0)]
    assert train.column("domain")[3:5] == ["products", scenes.value("domain", 0)]
    assert train.mixture == Mixture(None, None)
    assert train.mixture.is_plain
    chosen = pickle.loads(pickle.dumps(train.select([23, 0])))
    assert chosen.column("source") == ["scenes", "products"]
    assert chosen.mixture == train.mixture
    assert torch.equal(chosen.images.read(1), train.images.read(0))
    assert load(f"{data}:train").fingerprint() == train.fingerprint()
    assert load(products, split="train", columns={"text": "title"}, images=products.parent / "img").mixture is None


def test_groups_and_ids_of_sources_stay_apart_unless_shared(products: Path) -> None:
    twice = [PRODUCTS, {**PRODUCTS, "name": "again"}, PRODUCTS]
    data = load(f"{write_mixture(products.parent, twice)}:train")
    assert sorted(set(data.column("source"))) == ["again", "products", "products-2"]
    assert data.column("group")[:4] == ["products/a", "products/a", None, None]
    assert len(set(data.column("id"))) == 12
    groups = data.group_ids().tolist()
    assert groups[0] == groups[1] != groups[4] == groups[5]
    assert groups[2] == groups[6], "without a group, equal captions belong together in any source"
    shared = load(f"{write_mixture(products.parent, twice, shared_groups=True)}:train")
    groups = shared.group_ids().tolist()
    assert groups[0] == groups[1] == groups[4] == groups[9]
    assert groups[2] != groups[0]


def test_weights_and_mixing_are_kept(products: Path) -> None:
    sources = [{**PRODUCTS, "weight": 3}, {"path": SHAPES, "weight": 1, "name": "scenes"}]
    data = load(f"{write_mixture(products.parent, sources)}:train")
    assert data.mixture == Mixture({"products": 3.0, "scenes": 1.0}, "stratified")
    ids, names, weights = sources_of(data, data.mixture)
    assert (ids.tolist(), names, weights.tolist()) == ([0] * 4 + [1] * 20, ["products", "scenes"], [3, 1])
    ids, names, weights = sources_of(data.select(range(10, 20)), data.mixture)
    assert (ids.tolist(), names, weights.tolist()) == ([0] * 10, ["scenes"], [1])
    plain = load(f"{write_mixture(products.parent, [PRODUCTS, SHAPES], mixing='per_source')}:train")
    assert plain.mixture == Mixture(None, "per_source")
    assert sources_of(plain, plain.mixture)[2].tolist() == [4, 20]


def test_paths_are_seen_from_the_file(products: Path, items: list, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir("/")
    inner = write_images(tmp_path / "set" / "folder" / "cat", items[:2]).parent
    rows = [
        {"id": "products/0.png", "split": "test"},
        {"id": "1.png", "split": "train"},
        {"id": "0.png", "split": "test"},
    ]
    write_csv(tmp_path / "set" / "s.csv", rows)
    write_csv(tmp_path / "set" / "p.csv", [{"path": f"../img/{n}.png", "text": str(n)} for n in range(3)])
    write_csv(tmp_path / "set" / "s.csv", [{"id": f"../img/{n}.png", "split": "train"} for n in range(2)])
    table = {**PRODUCTS, "path": "../products.csv:train", "images": "../img"}
    data = write_mixture(tmp_path / "set", [table, "folder", "p.csv?splits=s.csv:train"])
    train = load(f"{data}:train")
    assert train.column("source") == ["products"] * 4 + ["folder"] * 2 + ["p"] * 2
    assert train.images.describe(4) == f"{inner}/cat/0.png"
    assert available_splits(data) == ["train"]


def test_a_source_without_splits_is_trained_on_and_told(products: Path, items: list, caplog) -> None:
    write_images(products.parent / "plain" / "cat", items)
    data = write_mixture(products.parent, [PRODUCTS, "plain"])
    parts = load_all(data)
    assert {name: part.column("source").count("plain") for name, part in parts.items()} == {"train": 6, "validation": 0}
    assert "plain has no splits while others have: all its rows are taken for train" in caplog.text


def test_a_mixture_without_splits_can_be_split(tmp_path: Path, items: list) -> None:
    write_images(tmp_path, items)
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", [{"path": i.name, "text": f"{name} {i.name}"} for i in items])
    data = write_mixture(tmp_path, ["a.csv", "b.csv"], mixing="per_source")
    assert available_splits(data) == []
    assert len(load(data)) == 12
    halves = load_all(f"{data}?train=0.5&test=0.5&seed=1")
    assert sum(map(len, halves.values())) == 12
    assert [part.mixture for part in halves.values()] == [Mixture(None, "per_source")] * 2
    files = [{name.partition("/")[2] for name in part.column("id")} for part in halves.values()]
    assert not files[0] & files[1], "one image file in two sources goes to one split"


def test_types_that_do_not_go_together_stand_side_by_side(tmp_path: Path, items: list, caplog) -> None:
    write_images(tmp_path, items)
    for name, extra in (("a", [1, 2]), ("b", ["x", "y"]), ("c", [1.5, 2.5])):
        rows = {"path": ["0.png", "1.png"], "text": ["p", "q"], "extra": extra, "source": ["web", "book"]}
        pq.write_table(pa.table(rows), tmp_path / f"{name}.parquet")
    both = load(write_mixture(tmp_path, ["a.parquet", "b.parquet"]))
    assert both.column("a.extra") == [1, 2, None, None]
    assert both.column("b.extra") == [None, None, "x", "y"]
    assert "extra" not in both.table.column_names
    assert "['extra']: the types of these columns differ" in caplog.text
    assert both.column("source") == ["a", "a", "b", "b"]
    assert both.column("a.source") == ["web", "book", None, None]
    assert load(write_mixture(tmp_path, ["a.parquet", "c.parquet"])).column("extra") == [1, 2, 1.5, 2.5]


def test_skipped_rows_of_all_sources_are_listed(tmp_path: Path, items: list) -> None:
    write_images(tmp_path, items)
    for name in ("a", "b"):
        lines = [{"file_name": "0.png", "text": "one"}, "{broken", {"file_name": "1.png", "text": ""}]
        write_json_lines(tmp_path / f"{name}.jsonl", lines)
    data = load(write_mixture(tmp_path, ["a.jsonl", "b.jsonl"]))
    assert len(data) == 2
    assert sorted(Path(row.source.rpartition(":")[0]).name for row in data.skipped) == ["a.jsonl"] * 2 + ["b.jsonl"] * 2


def test_numbers_of_rows_are_moved() -> None:
    lists = pa.array([[1], [], None], pa.list_(pa.int64()))
    table = pa.table({"texts": pa.array([["a"]] * 3), "negative_rows": lists})
    joined = join_tables(_offset_rows([table, table.drop_columns(["negative_rows"]), table]), names=["a", "b", "c"])
    assert [rows or [] for rows in joined["negative_rows"].to_pylist()] == [[1], [], [], [], [], [], [7], [], []]


@pytest.mark.parametrize(
    ("tree", "match"),
    [
        ([], "a mixture is a mapping whose key sources"),
        ({"sources": "a.csv"}, "whose key sources holds a list"),
        ({}, "missing key 'sources'"),
        ({"sources": []}, "sources is"),
        ({"source": ["a.csv"], "sources": ["a.csv"]}, "unknown key 'source'; did you mean 'sources'"),
        (
            {"sources": [{"path": "a.csv", "wieght": 2}]},
            "unknown key 'sources.0.wieght'; did you mean 'sources.0.weight'",
        ),
        ({"sources": [{"path": "a", "columns": {"txt": "t"}}]}, "did you mean 'sources.0.columns.text'"),
        ({"sources": [{"name": "a"}]}, "missing key 'sources.0.path'"),
        ({"sources": [{"path": "a", "weight": 0}]}, "sources.0.weight is 0"),
        ({"sources": [{"path": "a", "name": "x/y"}]}, "sources.0.name is 'x/y'"),
        ({"sources": [{"path": "a", "weight": 1}, "b"]}, "b has no weight and others have; give every source one"),
        ({"sources": [{"path": "a", "name": "x"}, {"path": "b", "name": "x"}]}, "two sources are called 'x'"),
        ({"sources": ["a"], "mixing": "per_batch"}, "mixing is 'per_batch'"),
    ],
)
def test_wrong_files_are_told(tree: object, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        mixture_from_tree(tree, source="mine")


def test_what_a_mixture_cannot_hold_is_told(products: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = products.parent
    monkeypatch.chdir(folder)
    for source, match in (
        ("other.yaml", "other.yaml is a mixture itself; list its sources here instead"),
        ("other.yml?train=0.5:train", "is a mixture itself"),
        ("vectors:v.npz", "embeddings in place of images"),
        ("shapes?trian=4", "did you mean 'train'"),
    ):
        with pytest.raises(ConfigError, match=match):
            load(f"{write_mixture(folder, [PRODUCTS, source])}:train")
    with pytest.raises(DataError, match="there is no .*prodcts.csv .did you mean .*products.csv"):
        load(write_mixture(folder, ["prodcts.csv"]))
    with pytest.raises(ConfigError, match="data.columns.text goes there"):
        load(f"{write_mixture(folder, [PRODUCTS])}:train", columns={"text": "title"})
    with pytest.raises(DataError, match="there is no file .*none.yaml"):
        load("none.yaml")
    with pytest.raises(DataError, match="no split 'tset'"):
        load(f"{write_mixture(folder, [PRODUCTS, SHAPES])}:tset")
    with pytest.raises(ConfigError, match="unknown option 'trian'"):
        load(f"{write_mixture(folder, [PRODUCTS])}?trian=0.5:train")
