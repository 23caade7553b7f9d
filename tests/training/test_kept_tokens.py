"""Captions tokenised once and kept: the same run, fewer tokenisations; and when that is done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import small_recipe, small_run, step_records

from mmcl.build import train
from mmcl.builders.training import build_model
from mmcl.config import load_recipe
from mmcl.data.batches.cached_tokens import CachedTokens
from mmcl.data.splits.training_splits import load_splits
from mmcl.errors import ConfigError
from mmcl.training.inputs import TrainingInputs

ONCE = ("train.epochs=1", "train.max_steps=3")


def inputs_of(folder: Path, *overrides: str) -> TrainingInputs:
    recipe = small_recipe(folder, *overrides)
    splits = load_splits(recipe)
    return TrainingInputs(recipe, build_model(recipe, splits.train), splits.train, None)


def test_kept_tokens_train_the_same_model(tmp_path: Path) -> None:
    losses = {}
    for kept in ("true", "false"):
        small_run(tmp_path / kept, *ONCE, f"data.cache_tokens={kept}")
        losses[kept] = [record["loss"] for record in step_records(tmp_path / kept)]
        assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 1
    assert losses["true"] == losses["false"]
    small_run(tmp_path / "other", *ONCE, "run.seed=1")
    assert [record["loss"] for record in step_records(tmp_path / "other")] != losses["true"], "control"


def test_a_batch_is_the_same_with_every_caption_and_tag(tmp_path: Path) -> None:
    options = ("data.captions={tags_probability: 0.5, lowercase: true}", "data.cache_tokens=true")
    kept, anew = inputs_of(tmp_path, *options).reader, inputs_of(tmp_path, options[0], "data.cache_tokens=false").reader
    assert isinstance(kept.text, CachedTokens)
    assert not isinstance(anew.text, CachedTokens)
    for epoch in range(3):
        kept.epoch = anew.epoch = epoch
        one, other = kept.__getitems__(range(40)).text, anew.__getitems__(range(40)).text
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("train.epochs=20",), True),
        (("train.epochs=1",), False),
        (("train.max_steps=4",), False),
        (("train.epochs=20", "data.cache_tokens=false"), False),
        (("train.epochs=1", "data.cache_tokens=true"), True),
        (("train.epochs=20", "data.captions={word_dropout: 0.5}", "data.cache_tokens=true"), False),
        (("train.epochs=20", "data.captions={token_dropout: 0.5}"), False),
    ],
)
def test_when_tokens_are_kept(tmp_path: Path, options: tuple[str, ...], kept: bool) -> None:
    assert isinstance(inputs_of(tmp_path, *options).reader.text, CachedTokens) == kept


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"tokens cannot be kept in .*file/tokens .*set data\.cache_tokens=false"):
        inputs_of(tmp_path, "data.cache_tokens=true")
    assert not isinstance(inputs_of(tmp_path, "train.epochs=20").reader.text, CachedTokens)
    assert "captions are tokenised at every step" in caplog.text


def test_the_keys_of_reading_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    small_run(run, *ONCE)
    recipe = small_recipe(run, *ONCE, "data.prefetch=3", "data.cache_tokens=true")
    assert train(recipe, resume=True).result.stopped_by == "done"
    with pytest.raises(ConfigError, match=r"data\.decode"):
        train(small_recipe(run, *ONCE, "data.decode=scaled"), resume=True)
    with pytest.raises(ConfigError, match="prefetch"):
        load_recipe(Path(__file__).with_name("small.yaml"), ["data.prefetch=0"])
