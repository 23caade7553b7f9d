"""Image features that a run has kept are looked up by the doctor, and those of other images never."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl.build import train
from mmcl.builders.examining.kept_features import KeptFeatures, kept_image_features
from mmcl.builders.examining.run_models import starting_model
from mmcl.config import Recipe, recipe_from_tree
from mmcl.data.splits.training_splits import load_splits
from mmcl.errors import DataError

TOWER = {"options": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("features")
    tree = {
        "data": {"path": "shapes?train=40&validation=12&test=4&image_size=16"},
        "model": {"embedding_dim": 8, "image": {**TOWER, "image_size": 16, "freeze": True}, "text": TOWER},
        "train": {"batch_size": 16, "max_steps": 2, "feature_cache": {"dir": str(folder / "kept")}},
        "evaluate": {"tasks": ["retrieval"], "every_steps": 1000, "at_end": False},
        "run": {"dir": str(folder / "run")},
    }
    made = recipe_from_tree(tree, source="test")
    train(made)
    return made


def test_what_the_run_kept_is_what_the_tower_gives(recipe: Recipe) -> None:
    dataset = load_splits(recipe).train
    model = starting_model(recipe, dataset).eval()
    rows = [3, 0, 31]
    found = kept_image_features(recipe, model.image, dataset, rows)
    assert found is not None
    with torch.inference_mode():
        pixels = model.image.tower.preprocessing([dataset.images.read(row) for row in rows])
        wanted = model.image.features(**pixels).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found[0] - wanted[1]).max() > 1e-3  # the control


def test_nothing_is_computed(recipe: Recipe, tmp_path: Path) -> None:
    dataset = load_splits(recipe).train
    model = starting_model(recipe, dataset)
    assert kept_image_features(recipe, model.image, dataset.select(np.arange(5)), [0]) is None  # other images
    other = recipe_from_tree(
        {**recipe.model_dump(), "train": {"feature_cache": {"dir": str(tmp_path / "empty")}}}, source="test"
    )
    assert kept_image_features(other, model.image, dataset, [0]) is None
    assert not (tmp_path / "empty").exists()
    off = recipe_from_tree({**recipe.model_dump(), "train": {"feature_cache": {"enabled": False}}}, source="test")
    assert kept_image_features(off, model.image, dataset, [0]) is None
    model.image.tower.model.requires_grad_(True)
    assert kept_image_features(recipe, model.image, dataset, [0]) is None  # a tower that trains
    model.image.tower.model.requires_grad_(False)
    with pytest.raises(DataError, match="does not hold these features"):
        KeptFeatures(tmp_path / "kept").images(model.image, dataset)
