"""Trainings on several sources, and what a training says of captions that are trained on and judged on."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mmcl.builders import batches
from mmcl.config import Recipe, recipe_from_tree
from mmcl.data import load
from mmcl.data.splits.training_splits import load_splits
from mmcl.errors import ConfigError
from mmcl.negatives.mixtures import MixtureBatches
from mmcl.negatives.samplers import RandomBatches

TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


def recipe(path: str, folder: Path | str = "unused", **sections: dict) -> Recipe:
    tree = {
        "data": {"path": path},
        "model": {"embedding_dim": 16, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}},
        "train": {"batch_size": 16, "max_steps": 4, "log_every": 1},
        "evaluate": {"every_steps": 4},
        "run": {"dir": str(folder)},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return recipe_from_tree(tree, source="test")


def mixture(folder: Path, *, weights: tuple[float, float] | None = (1, 1), **keys: object) -> str:
    """Forty scenes, and twelve files of pictures."""
    (folder / "img").mkdir(exist_ok=True)
    lines = ["path,title"]
    for row in range(12):
        Image.new("RGB", (30, 40), (row * 20, 90, 255 - row * 20)).save(folder / "img" / f"{row}.png")
        lines.append(f"{row}.png,colour number {row}")
    (folder / "pictures.csv").write_text("\n".join(lines))
    sources = [
        {"path": "shapes?train=40&validation=12&test=12&image_size=32", "name": "scenes"},
        {"path": "pictures.csv", "columns": {"text": "title"}, "images": "img"},
    ]
    if weights is not None:
        sources = [{**source, "weight": weight} for source, weight in zip(sources, weights)]
    (folder / "mix.yaml").write_text(yaml.safe_dump({"sources": sources, **keys}))
    return str(folder / "mix.yaml")


def batches_of(path: str, **sections: dict) -> object:
    return batches.build_batches(recipe(path, **sections), load(f"{path}:train"), None)


def test_weights_make_the_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = mixture(tmp_path)
    with caplog.at_level(logging.INFO):
        batches = batches_of(path)
    assert type(batches) is MixtureBatches
    assert "an epoch takes scenes 26 of 40 rows, pictures 26 of 12 rows (stratified batches)" in caplog.text
    for rows in batches.epoch(0):
        assert abs((rows >= 40).mean() - 0.5) < 0.05
    alone = batches_of(mixture(tmp_path, mixing="per_source"))
    assert all(len({row >= 40 for row in rows.tolist()}) == 1 for rows in alone.epoch(0))
    plain = batches_of(mixture(tmp_path, weights=None))
    assert type(plain) is RandomBatches
    expected = RandomBatches(52, 16, seed=0).epoch(3)
    assert [rows.tolist() for rows in plain.epoch(3)] == [rows.tolist() for rows in expected]


def test_what_would_undo_the_weights_is_refused(tmp_path: Path) -> None:
    path = mixture(tmp_path)
    with pytest.raises(ConfigError, match="batches.name=unique_groups would undo; take weight and mixing out"):
        batches_of(path, batches={"name": "unique_groups"})
    with pytest.raises(ConfigError, match="data.bucket_by_length would undo"):
        batches_of(path, data={"bucket_by_length": True})
    plain = mixture(tmp_path, weights=None)
    assert len(batches_of(plain, batches={"name": "unique_groups"})) == 4
    with pytest.raises(ConfigError, match=r"pictures has 12 row\(s\), and its share of a batch is 13"):
        batches_of(mixture(tmp_path, weights=(1, 51)))


def test_rows_are_drawn_of_all_sources(tmp_path: Path) -> None:
    path = mixture(tmp_path)
    few = load_splits(recipe(path, data={"max_rows": 20})).train
    assert few.mixture is not None
    assert set(few.column("source")) == {"scenes", "pictures"}
    with pytest.raises(ConfigError, match="data.columns.text goes there"):
        load_splits(recipe(path, data={"columns": {"text": "title"}}))


def captioned(folder: Path, splits: dict[str, list[tuple[str, str]]]) -> str:
    """A table of rows (caption, group) in splits; the images are never read."""
    lines = ["path,text,group,split"]
    for split, rows in splits.items():
        lines += [f"{split}{number}.png,{text},{group},{split}" for number, (text, group) in enumerate(rows)]
    (folder / "table.csv").write_text("\n".join(lines))
    return str(folder / "table.csv")


def test_what_is_trained_on_and_judged_on_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = [(f"text {row}", f"g{row}") for row in range(8)]
    judged = [("text 3", "h0"), ("new", "g1"), ("text 4", "g4"), ("other", "h1"), ("text 9", "")]
    load_splits(recipe(captioned(tmp_path, {"train": own, "validation": judged, "test": [("fine", "h9")] * 2})))
    assert "captions or groups of the training split are judged on too: 3 of 5 rows of" in caplog.text
    assert "table.csv:validation (60.0 %; by caption 2, by group 2)" in caplog.text
    assert "table.csv:test" not in caplog.text
    caplog.clear()
    load_splits(recipe(captioned(tmp_path, {"train": own, "validation": [("new", "h0")] * 2})))
    assert "judged on too" not in caplog.text


def test_what_is_held_out_shares_no_caption_with_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [(f"text {row // 2}", f"g{row}") for row in range(40)]
    section = {"data": {"holdout_share": 0.3}}
    splits = load_splits(recipe(captioned(tmp_path, {"train": rows}), **section))
    assert (len(splits.train), len(splits.validation)) == (28, 12)
    assert "judged on too" not in caplog.text
    train_texts, held = ({texts[0] for texts in part.column("texts")} for part in (splits.train, splits.validation))
    assert not train_texts & held
    by_group = np.random.default_rng([0, 1]).permutation(40)[:12] // 2
    assert set(by_group) & (set(range(20)) - set(by_group)) or len(set(by_group.tolist())) > 6, "control: groups leak"
    # A caption that half of the rows have stays in training.
    glued = [("photo" if row % 2 else f"text {row}", f"g{row}") for row in range(40)]
    splits = load_splits(recipe(captioned(tmp_path, {"train": glued}), **section))
    assert "20 of 40 rows (50 %) hang together" in caplog.text
    assert ["photo"] not in splits.validation.column("texts")
    assert len(splits.validation) == 6
