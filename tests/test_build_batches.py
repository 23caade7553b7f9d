"""The recipe's ``batches`` section: what may be asked for together, and the batches that come of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import mmcl
from mmcl import build, builders
from mmcl.config import Recipe, recipe_from_tree
from mmcl.data import load
from mmcl.data.caption_groups import twin_ids
from mmcl.data.mining.offline_mining import MiningPlan
from mmcl.data.shapes import load_shapes
from mmcl.errors import ConfigError
from mmcl.negatives.balanced import BalancedBatches
from mmcl.negatives.clusters import ClusterBatches
from mmcl.negatives.samplers import RandomBatches
from mmcl.negatives.unique_groups import UniqueGroupBatches

TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def recipe(path: str = "shapes", folder: Path | str = "unused", **sections: dict) -> Recipe:
    tree = {
        "data": {"path": path},
        "model": {"embedding_dim": 16, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}},
        "train": {"batch_size": 16, "max_steps": 3, "log_every": 1},
        "run": {"dir": str(folder)},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return recipe_from_tree(tree, source="test")


def batches_of(data: object, **section: object) -> object:
    return builders.batches.build_batches(recipe(batches=section), data, None)


@pytest.fixture
def vectors(tmp_path: Path) -> str:
    """Sixty-four pairs about four centres, with labels; the texts' centres go another way about than the images'."""
    draw = np.random.default_rng(0)
    centres = np.linalg.qr(draw.standard_normal((8, 8)))[0][:4]
    near = {"image": np.arange(64) % 4, "text": np.arange(64) // 16}
    arrays = {name: centres[at] + 0.02 * draw.standard_normal((64, 8)) for name, at in near.items()}
    np.savez(tmp_path / "v.npz", **arrays, label=np.arange(64) % 4)
    return f"vectors:{tmp_path / 'v.npz'}"


def test_random_is_the_default() -> None:
    assert recipe().batches.name == "random"
    data = load_shapes("train", size=40)
    batches = batches_of(data)
    assert type(batches) is RandomBatches
    assert [rows.tolist() for rows in batches.epoch(2)] == [
        rows.tolist() for rows in RandomBatches(40, 16, seed=0).epoch(2)
    ]


def test_unique_groups_looks_at_groups_and_captions() -> None:
    data = load_shapes("train", size=200)
    batches = batches_of(data, name="unique_groups")
    assert type(batches) is UniqueGroupBatches
    groups = data.group_ids().numpy()
    for epoch in range(3):
        for rows in batches.epoch(epoch):
            assert len(set(groups[rows].tolist())) == len(rows)
            texts = [text for row in rows.tolist() for text in set(data.texts(row))]
            assert len(set(texts)) == len(texts)
    assert len(set(twin_ids(data).tolist())) < 200  # a control: there are twins


@pytest.mark.parametrize(("modality", "period"), [("image", lambda row: row % 4), ("text", lambda row: row // 16)])
def test_clusters_follow_the_models_embeddings(vectors: str, modality: str, period) -> None:
    data = load(vectors)
    batches = batches_of(data, name="clusters", model=vectors, modality=modality, clusters=4)
    assert type(batches) is ClusterBatches
    for rows in batches.epoch(0):
        assert len({period(row) for row in rows.tolist()}) == 1
    again = batches_of(data, name="clusters", model=vectors, modality=modality, clusters=4)
    assert [rows.tolist() for rows in again.epoch(1)] == [rows.tolist() for rows in batches.epoch(1)]
    mixed = batches_of(data, name="clusters", model=vectors, modality=modality, clusters=4, clusters_per_batch=16)
    assert any(len({period(row) for row in rows.tolist()}) > 1 for rows in mixed.epoch(0))


def test_rows_without_an_image_are_a_cluster_of_their_own(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(vectors)
    readable = np.setdiff1d(np.arange(64), [3, 7, 20])

    def embed(embedder: object, dataset: object, *, batch_size: int) -> tuple:
        vectors = F.normalize(torch.from_numpy(embedder.vectors.image), dim=1)
        return vectors[readable], readable, ["three rows"]

    monkeypatch.setattr(builders.batches, "embed_images", embed)
    clusters = builders.batches._cluster_rows(
        recipe(batches={"name": "clusters", "model": vectors, "clusters": 4}), data
    )
    assert clusters[[3, 7, 20]].tolist() == [-1] * 3
    assert sorted(np.concatenate(ClusterBatches(clusters, 16, seed=0).epoch(0)).tolist()) == list(range(64))


def test_wrong_cluster_models_are_told_by_every_process(vectors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(vectors)
    with pytest.raises(ConfigError, match="num_clusters is 100; want 1 to 64"):
        batches_of(data, name="clusters", model=vectors, clusters=100)
    # Another process hears of it from the main one.
    told = ConfigError("no such model")
    monkeypatch.setattr(builders.batches, "rank", lambda: 1)
    monkeypatch.setattr(builders.batches, "broadcast_object", lambda value: told)
    monkeypatch.setattr(builders.batches, "_cluster_rows", lambda *_: pytest.fail("the main process alone clusters"))
    with pytest.raises(ConfigError, match="no such model"):
        batches_of(data, name="clusters", model=vectors)


def test_balanced_takes_the_column(vectors: str) -> None:
    data = load(vectors)
    batches = batches_of(data, name="balanced", samples_per_class=4)
    assert type(batches) is BalancedBatches
    for rows in batches.epoch(0):
        labels = [data.value("label", row) for row in rows.tolist()]
        assert sorted(labels) == sorted(["0", "1", "2", "3"] * 4)
    shapes = load_shapes("train", size=60)
    missing = shapes.column("label").count(None)
    assert missing > 0
    with pytest.raises(ConfigError, match=f"{missing} of 60 rows have no label"):
        batches_of(shapes, name="balanced", samples_per_class=8)
    assert batches_of(shapes, name="balanced", samples_per_class=8, column="domain").classes_per_batch == 2


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"batches": {"name": "cluster"}}, "batches.name is 'cluster'"),
        ({"batches": {"name": "clusters"}}, "needs batches.model"),
        ({"batches": {"model": "m"}}, "batches.model goes with batches.name=clusters; batches.name is random"),
        (
            {"batches": {"name": "unique_groups", "samples_per_class": 2}},
            "batches.samples_per_class goes with .*balanced",
        ),
        (
            {"batches": {"name": "clusters", "model": "m", "clusters_per_batch": 17}},
            "batches.clusters_per_batch is 17, more than train.batch_size .16.",
        ),
        ({"batches": {"name": "balanced", "samples_per_class": 5}}, r"\(3\) x batches.samples_per_class \(5\) is not"),
        ({"batches": {"name": "balanced", "classes_per_batch": 8}}, r"classes_per_batch \(8\) x .* \(4\) is not .*16"),
        ({"batches": {"name": "balanced", "samples_per_class": 16}}, "two classes"),
        (
            {"batches": {"name": "unique_groups"}, "data": {"bucket_by_length": True}},
            "data.bucket_by_length goes with batches.name=random; batches.name is unique_groups",
        ),
    ],
)
def test_what_does_not_go_together_is_told(sections: dict, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        recipe(**sections)


def test_the_section_survives_its_own_file() -> None:
    for section in (
        {},
        {"name": "balanced", "samples_per_class": 2},
        {"name": "clusters", "model": "m", "clusters": 3},
    ):
        loaded = recipe(batches=section)
        assert recipe_from_tree(loaded.model_dump(mode="json"), source="again") == loaded


@pytest.mark.parametrize("name", ["unique_groups", "clusters", "balanced"])
def test_runs_train_with_each_and_come_out_the_same_twice(name: str, tmp_path: Path) -> None:
    data = "shapes?train=64&validation=24&test=24&image_size=32"
    section = {"name": name}
    if name == "clusters":
        model = mmcl.train(recipe(data, tmp_path / "first", evaluate={"at_end": False}, train={"max_steps": 1}))
        section |= {"model": str(model.folder), "clusters": 2}
    elif name == "balanced":
        section |= {"column": "domain", "samples_per_class": 8}
    quiet = {"at_end": False, "every_steps": 100}
    sections = {"evaluate": quiet, "train": {"max_steps": 6}}
    runs = [mmcl.train(recipe(data, tmp_path / number, batches=section, **sections)) for number in ("1", "2")]
    runs.append(mmcl.train(recipe(data, tmp_path / "random", **sections)))
    assert [run.result.progress.step for run in runs] == [6, 6, 6]
    first, second, random = (mmcl.load(run.folder).model.state_dict() for run in runs)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], random[key]) for key in first)


def test_mined_negatives_reach_a_run(tmp_path: Path) -> None:
    data = "shapes?train=64&validation=24&test=24&image_size=32"
    model = mmcl.train(recipe(data, tmp_path / "first", evaluate={"at_end": False}, train={"max_steps": 1}))
    plan = MiningPlan(2, 2, positive_margin=None, near_duplicate=None)
    out = tmp_path / "hard.parquet"
    told = build.mine_negatives(model.folder, f"{data}:train", out, plan=plan)
    assert told["counts"]["captions_mined"] == told["counts"]["images_mined"] == 128
    by_object = build.mine_negatives(mmcl.load(model.folder), load(f"{data}:train"), out, plan=plan, name="mine")
    assert {**by_object, "model": told["model"]} == told
    with pytest.raises(ConfigError, match="name is None"):
        build.mine_negatives(mmcl.load(model.folder), load(f"{data}:train"), out)
    section = {"path": data, "negatives": str(out), "max_rows": 40}
    sections = {
        "data": section,
        "negatives": {"captions_per_row": 2, "images_per_row": 1},
        "evaluate": {"at_end": False},
    }
    assert mmcl.train(recipe(data, tmp_path / "run", **sections)).result.progress.step == 3
