"""Kept features of frozen towers: equal to running the tower, found again, and never mistaken for others."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    differences,
    final_state,
    final_weights,
    in_child,
    in_children,
    rank_envs,
    small_recipe,
    small_run,
    step_records,
)

from mmcl import builders
from mmcl.config import AugmentSection
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.augment.seeds import row_seed
from mmcl.data.shapes import load_shapes
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.training import cached_features
from mmcl.training.cached_features import FeatureCache, Views
from mmcl.training.inputs import TrainingInputs

FROZEN = ("model.image.freeze=true", "model.text.freeze=true")
TEXTS = ["a red circle", "two small blue stars above a green heart", "a red circle", "a heart"]


@pytest.fixture(scope="module")
def data() -> Any:
    return load_shapes("train", size=40, image_size=40)


def frozen_model(tmp_path: Path, data: Any, *overrides: str) -> DualEncoder:
    recipe = small_recipe(tmp_path / "unused", *FROZEN, *overrides)
    return builders.training.build_model(recipe, data)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows that towers compute from now on."""
    rows: list[int] = []
    own = FeatureCache._forward

    def forward(self: FeatureCache, encoder: Any, inputs: dict[str, torch.Tensor]) -> np.ndarray:
        rows.append(len(next(iter(inputs.values()))))
        return own(self, encoder, inputs)

    monkeypatch.setattr(FeatureCache, "_forward", forward)
    return rows


def test_features_equal_running_the_tower(tmp_path: Path, data: Any) -> None:
    model = frozen_model(tmp_path, data)
    cache = FeatureCache(tmp_path / "cache", batch_size=7)
    images = cache.images(model.image, data)([3, 39, 0], [0, 0, 0])
    texts = cache.texts(model.text, TEXTS)(TEXTS)["features"]
    with torch.no_grad():
        pixels = model.image.tower.preprocessing([data.images.read(row) for row in (3, 39, 0)])
        torch.testing.assert_close(images, model.image.features(**pixels), atol=1e-6, rtol=0)
        running = model.text.features(**model.text.tower.preprocessing(TEXTS))
    torch.testing.assert_close(texts, running, atol=1e-6, rtol=0)
    assert not torch.allclose(images[0], images[1], atol=1e-5)
    assert not torch.allclose(texts[0], texts[1], atol=1e-5)
    assert torch.equal(texts[0], texts[2])


def test_what_is_there_is_not_computed_again(tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = counting(monkeypatch)
    model = frozen_model(tmp_path, data)
    first = FeatureCache(tmp_path / "cache")
    rows = first.images(model.image, data)
    first.texts(model.text, TEXTS)
    assert sum(computed) == 40 + 3
    assert first.images(model.image, data) is rows  # not even read again
    second = FeatureCache(tmp_path / "cache")
    again = second.images(model.image, data)
    second.texts(model.text, [*TEXTS, TEXTS[0]][::-1])
    assert sum(computed) == 43
    assert torch.equal(again([5], [0]), rows([5], [0]))


def test_a_saved_and_loaded_tower_finds_its_features(
    tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = frozen_model(tmp_path, data)
    cache = FeatureCache(tmp_path / "cache")
    cache.images(model.image, data)
    cache.texts(model.text, TEXTS)
    computed = counting(monkeypatch)
    loaded = from_pretrained(save_pretrained(model, tmp_path / "model"))
    cache.images(loaded.image, data)
    cache.texts(loaded.text, TEXTS)
    assert computed == []


def test_the_key_changes_with_all_that_features_depend_on(tmp_path: Path, data: Any) -> None:
    def keys(cache: FeatureCache, model: DualEncoder, rows: Any = data, views: Views | None = None) -> set[str]:
        before = {path.name for path in (tmp_path / "cache").glob("*")}
        cache.images(model.image, rows, views=views)
        return {path.name for path in (tmp_path / "cache").glob("*")} - before

    def cache(**options: Any) -> FeatureCache:
        return FeatureCache(tmp_path / "cache", **options)

    model = frozen_model(tmp_path, data)
    assert len(keys(cache(), model)) == 1
    assert len(keys(cache(batch_size=3), model)) == 0  # how it is computed does not matter
    assert len(keys(cache(), frozen_model(tmp_path, data))) == 0
    assert len(keys(cache(), frozen_model(tmp_path, data, "model.image.head.name=mlp"))) == 0  # nor what comes after
    assert len(keys(cache(bf16=True), model)) == 1
    assert len(keys(cache(), frozen_model(tmp_path, data, "run.seed=1"))) == 1  # other weights
    assert len(keys(cache(), frozen_model(tmp_path, data, "model.image.pooling=mean"))) == 1
    assert len(keys(cache(), model, data.select(range(1, 40)))) == 1
    assert len(keys(cache(), model, data.select([1, 0, *range(2, 40)]))) == 1
    flips = ImageAugmentation(AugmentSection(flip=0.5), model.image.tower.preprocessing)
    assert len(keys(cache(), model, views=Views(1, flips, "flip", lambda view, row: row))) == 1
    assert len(keys(cache(), model, views=Views(2, flips, "flip", lambda view, row: row))) == 1
    other = frozen_model(tmp_path, data)
    with torch.no_grad():
        other.image.tower.model.layernorm.bias[0] += 1e-4  # a single weight
    assert len(keys(cache(), other)) == 1
    object.__setattr__(model.image.tower.preprocessing, "mean", (0.4, 0.5, 0.5))
    assert len(keys(cache(), model)) == 1


def test_heads_and_eps_are_in_no_weight_and_in_the_key(tmp_path: Path, data: Any) -> None:
    from small_runs import TOWER

    plain = frozen_model(tmp_path, data)
    heads = frozen_model(
        tmp_path, data, f"model.image.options={TOWER.replace('attention_heads: 2', 'attention_heads: 4')}"
    )
    for (name, one), other in zip(plain.image.tower.state_dict().items(), heads.image.tower.state_dict().values()):
        assert torch.equal(one, other), name
    cache = FeatureCache(tmp_path / "cache")
    two, four = cache.images(plain.image, data)([0], [0]), cache.images(heads.image, data)([0], [0])
    assert not torch.allclose(two, four, atol=1e-7)
    assert len(list((tmp_path / "cache").glob("image-*"))) == 2


def test_a_broken_off_computation_goes_on(tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_features, "CHUNK_ROWS", 16)
    model = frozen_model(tmp_path, data)

    def broken_off() -> None:
        import os

        def tell(title: str, done: int, total: int) -> None:
            if done == 32:
                os.kill(os.getpid(), signal.SIGKILL)

        FeatureCache(tmp_path / "cache", progress=tell).images(model.image, data)

    code, _ = in_child(broken_off)
    assert code == -signal.SIGKILL
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("*.json"))) == 2
    computed = counting(monkeypatch)
    features = FeatureCache(tmp_path / "cache").images(model.image, data)
    assert sum(computed) == 8
    whole = FeatureCache(tmp_path / "other").images(model.image, data)
    rows = list(range(40))
    assert torch.equal(features(rows, [0] * 40), whole(rows, [0] * 40))
    # A file cut short by a full disk or a power cut is computed again.
    array = folder / "rows_000000016.npy"
    array.write_bytes(array.read_bytes()[:100])
    del computed[:]
    again = FeatureCache(tmp_path / "cache").images(model.image, data)
    assert sum(computed) == 16
    assert torch.equal(again(rows, [0] * 40), whole(rows, [0] * 40))


def test_features_larger_than_memory_are_read_from_disk(
    tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_features, "CHUNK_ROWS", 16)
    model = frozen_model(tmp_path, data)
    rows = [39, 0, 17, 17]
    held = FeatureCache(tmp_path / "cache").images(model.image, data)
    monkeypatch.setattr(cached_features, "IN_MEMORY_BYTES", 0)
    mapped = FeatureCache(tmp_path / "cache").images(model.image, data)
    assert torch.equal(mapped(rows, [0] * 4), held(rows, [0] * 4))


def test_processes_share_the_work(tmp_path: Path, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_features, "CHUNK_ROWS", 8)
    model = frozen_model(tmp_path, data)
    computed = counting(monkeypatch)

    def work() -> None:
        torch.distributed.init_process_group("gloo")
        features = FeatureCache(tmp_path / "cache").images(model.image, data, shared=True)
        rank = torch.distributed.get_rank()
        (tmp_path / f"{rank}.json").write_text(json.dumps([sum(computed), features([39], [0]).tolist()]))
        torch.distributed.destroy_process_group()

    for code, output in in_children(work, envs=rank_envs(2)):
        assert code == 0, output
    counts, values = zip(*(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)))
    assert counts == (24, 16)
    assert values[0] == values[1]


def test_views_are_augmented_apart_and_drawn_by_epoch(tmp_path: Path, data: Any) -> None:
    augment = ("data.augment={crop_scale: [0.4, 0.8], flip: 0.5}", "train.feature_cache.views=3")
    recipe = small_recipe(tmp_path / "unused", *FROZEN, *augment)
    model = builders.training.build_model(recipe, data)
    inputs = TrainingInputs(recipe, model, data, FeatureCache(tmp_path / "cache"))
    reader = inputs.reader
    assert reader.image.num_views == 3
    views = [reader.image([5], [view])[0] for view in range(3)]
    assert not torch.allclose(views[0], views[1], atol=1e-6)
    assert not torch.allclose(views[1], views[2], atol=1e-6)
    # Each is the tower's own answer to the augmented image.
    augmentation = ImageAugmentation(recipe.data.augment, model.image.tower.preprocessing)
    image = augmentation(data.images.read(5), seed=row_seed(0, 2, 5))
    with torch.no_grad():
        running = model.image.features(pixel_values=model.image.tower.preprocessing.normalize(image[None]))[0]
    torch.testing.assert_close(views[2], running, atol=1e-6, rtol=0)
    seen = set()
    for epoch in range(12):
        reader.epoch = epoch
        row = reader.__getitems__([5]).image["features"][0]
        seen.add(next(number for number, view in enumerate(views) if torch.equal(view, row)))
    assert seen == {0, 1, 2}


@pytest.mark.parametrize("towers", [FROZEN, FROZEN[:1], FROZEN[1:]], ids=["both frozen", "image frozen", "text frozen"])
def test_training_on_kept_features_is_training_on_the_towers(tmp_path: Path, towers: tuple[str, ...]) -> None:
    more = (*towers, "data.captions.tags_probability=0.5", "evaluate.every_steps=6", "optimizer.options={eps: 1e-4}")
    small_run(tmp_path / "kept", *more)
    small_run(tmp_path / "running", *more, "train.feature_cache.enabled=false")
    one, other = step_records(tmp_path / "kept"), step_records(tmp_path / "running")
    assert [record["loss"] for record in one] == pytest.approx([record["loss"] for record in other], abs=1e-5)
    mine, theirs = final_weights(tmp_path / "kept"), final_weights(tmp_path / "running")
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-5
    small_run(tmp_path / "free", "data.captions.tags_probability=0.5", "optimizer.options={eps: 1e-4}")
    free = final_weights(tmp_path / "free")
    assert max(float((mine[name] - free[name]).abs().max()) for name in mine) > 1e-4


def test_a_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*FROZEN, "evaluate.every_steps=4", "evaluate.at_end=true")
    computed = counting(monkeypatch)
    small_run(tmp_path / "first", *overrides)
    images = 96 + 24 + 24  # training, validation once for three evaluations, test once for the loaded model
    assert sum(computed) < images + 3 * images + 10  # at most three captions each
    del computed[:]
    run = small_run(tmp_path / "second", *overrides, "optimizer.learning_rate=1e-4")
    assert computed == []
    assert run.metrics["test"]["retrieval/num_images"] == 24


def test_a_tower_that_thaws_is_kept_before_and_trained_after(tmp_path: Path) -> None:
    thaw = (*FROZEN, "model.image.freeze_until_epoch=1", "model.text.freeze_until_epoch=1.5", "evaluate.every_steps=3")
    small_run(tmp_path / "kept", *thaw, "optimizer.options={eps: 1e-4}")
    small_run(tmp_path / "running", *thaw, "optimizer.options={eps: 1e-4}", "train.feature_cache.enabled=false")
    mine, theirs = final_weights(tmp_path / "kept"), final_weights(tmp_path / "running")
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in mine) < 1e-5
    small_run(tmp_path / "frozen", *FROZEN, "optimizer.options={eps: 1e-4}")
    still = final_weights(tmp_path / "frozen")
    for tower in ("model.image.tower", "model.text.tower"):
        assert max(float((mine[name] - still[name]).abs().max()) for name in mine if name.startswith(tower)) > 1e-4


def test_stopped_before_or_after_a_thaw_it_goes_on_exactly(tmp_path: Path) -> None:
    thaw = (*FROZEN, "model.image.freeze_until_epoch=1", "model.text.freeze_until_epoch=1.5", "train.ema.enabled=true")
    small_run(tmp_path / "whole", *thaw)
    for step in (4, 6, 8, 10):
        import os

        from small_runs import AtStep

        run = tmp_path / f"stopped_{step}"
        small_run(run, *thaw, display=AtStep(step, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        small_run(run, *thaw, resume=True)
        assert differences(final_state(run), final_state(tmp_path / "whole")) == [], step


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"features cannot be kept in .*file.*train.feature_cache.dir"):
        small_run(tmp_path / "run", *FROZEN, f"train.feature_cache.dir={tmp_path / 'file'}")


def test_one_view_of_augmented_images_is_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_run(tmp_path / "run", *FROZEN, "data.augment.flip=0.5", "train.max_steps=1")
    assert "for 1 augmented view(s)" in caplog.text
    assert "train.feature_cache.views" in caplog.text


def test_fixed_features_need_a_tower_frozen_whole(tmp_path: Path, data: Any) -> None:
    recipe = small_recipe(tmp_path / "unused", "model.image.freeze=1", "model.text.freeze=true")
    model = builders.training.build_model(recipe, data)
    assert not model.image.has_fixed_features
    assert model.text.has_fixed_features
    apply_freezing(model, small_recipe(tmp_path / "unused").model)
    assert not model.text.has_fixed_features
