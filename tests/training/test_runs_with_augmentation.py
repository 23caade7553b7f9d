"""Whole runs with varied images and captions: every preset trains, and what cannot be kept is not looked up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from small_runs import small_recipe, small_run, step_records

from mmcl.builders.training import build_cache, build_model
from mmcl.config import AUGMENT_PRESETS, recipe_from_tree
from mmcl.data.augment.captions import CaptionSampler
from mmcl.data.augment.tokens import TokenDropout
from mmcl.data.splits.training_splits import load_splits
from mmcl.training.cached_features import CachedTexts
from mmcl.training.inputs import TrainingInputs

ONE_STEP = ("train.max_steps=1", "train.batch_size=8")
FROZEN_TEXT = ("model.text.freeze=true", "evaluate.every_epochs=null")


@pytest.mark.parametrize("preset", AUGMENT_PRESETS)
def test_every_preset_trains_and_is_written_out(preset: str, tmp_path: Path) -> None:
    keys = (f"data.augment.preset={preset}", "data.augment.vertical_flip=0.25")
    small_run(tmp_path / "run", *ONE_STEP, *keys)
    assert [record["step"] for record in step_records(tmp_path / "run")] == [1]
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    augment = written["data"]["augment"]
    assert augment["vertical_flip"] == 0.25
    for key, value in AUGMENT_PRESETS[preset].items():
        assert augment[key] == value or augment[key].items() >= value.items()
    del written["environment"]
    assert recipe_from_tree(written, source="config.yaml") == small_recipe(tmp_path / "run", *ONE_STEP, *keys)


def inputs_of(folder: Path, *overrides: str) -> TrainingInputs:
    recipe = small_recipe(folder, *overrides)
    splits = load_splits(recipe)
    model = build_model(recipe, splits.train)
    return TrainingInputs(recipe, model, splits.train, build_cache(recipe, torch.device("cpu"), None))


VARIED = "data.captions={word_dropout: 0.2, word_swap: 0.2, token_dropout: 0.3, lowercase: true, tags_probability: 0.5}"


def test_varied_captions_train_beside_a_frozen_text_tower(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_run(tmp_path / "run", *FROZEN_TEXT, VARIED, "train.max_steps=2")
    assert [record["step"] for record in step_records(tmp_path / "run")] == [1, 2]
    said = "data.captions.word_dropout, data.captions.word_swap, data.captions.token_dropout vary captions without end"
    assert said in caplog.text


def test_the_reader_brings_varied_captions_by_epoch(tmp_path: Path) -> None:
    reader = inputs_of(tmp_path, VARIED).reader
    assert isinstance(reader.text, TokenDropout)
    rows = list(range(20))
    first = reader.__getitems__(rows)
    assert torch.equal(reader.__getitems__(rows).text["input_ids"], first.text["input_ids"])
    alone = reader.__getitems__([rows[7]]).text
    length = int(alone["attention_mask"].sum())
    assert torch.equal(alone["input_ids"][0, :length], first.text["input_ids"][7, :length])
    assert int(first.text["attention_mask"][7].sum()) == length
    reader.epoch = 1
    other = reader.__getitems__(rows)
    assert other.text["input_ids"].tolist() != first.text["input_ids"].tolist()
    assert torch.equal(other.group_ids, first.group_ids)


def test_few_varied_captions_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = '{templates: ["a photo of {text}", "a drawing of {text}"], templates_probability: 0.5, max_words: 6}'
    inputs = inputs_of(tmp_path, *FROZEN_TEXT, f"data.captions={keys}")
    assert isinstance(inputs.reader.text, CachedTexts)
    assert "without end" not in caplog.text
    rows = list(range(len(inputs.reader)))
    seen = set()
    for epoch in range(5):
        inputs.reader.epoch = epoch
        batch = inputs.reader.__getitems__(rows)
        assert batch.text["features"].shape[0] == len(rows)
        seen |= set(inputs.reader.sampled_captions(rows, list(range(epoch * 1000, epoch * 1000 + len(rows)))))
    sampler = CaptionSampler(inputs.reader.dataset, inputs.reader.captions)
    assert seen <= set(sampler.possible_captions())
    assert any(caption.startswith("a photo of ") for caption in seen)
