"""Ways of fine-tuning in whole runs: adapters, biases, averages, thawing; stopped and resumed."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from small_runs import AtStep, differences, final_state, in_child, small_run
from torch import nn

import mmcl
from mmcl.config import ScheduleSection
from mmcl.data import load
from mmcl.training.schedules import Schedule

LORA = (
    "model.text.lora={rank: 2, dropout: 0.2}",
    "model.image.lora={rank: 2, norms: true}",
    "model.image.freeze=true",
    "model.image.freeze_until_epoch=0.5",
    "train.weight_average={enabled: true, from_share: 0.5}",
    "train.micro_batch_size=8",
    "optimizer.sam_rho=0.05",
    "evaluate.every_steps=4",
    "checkpoint.every_steps=4",
    "train.max_steps=8",
)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_adapters_with_everything_resume_bit_for_bit(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    overrides = (*LORA, f"train.feature_cache.dir={tmp_path / 'cache'}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    small_run(whole, *overrides)
    code, output = in_child(lambda: small_run(broken, *overrides, display=AtStep(6, kill_self)))
    assert code < 0, output
    small_run(broken, *overrides, resume=True)
    assert differences(final_state(broken), final_state(whole)) == []
    state = final_state(whole)
    frozen = [name for name in state if name.endswith("base_layer.weight") and name.startswith("/weights/")]
    assert frozen
    assert (whole / "adapters" / "image" / "adapter_model.safetensors").is_file()
    assert (whole / "adapters" / "text" / "adapter_model.safetensors").is_file()
    assert mmcl.load(str(whole)).embed(["a red circle"], "text").shape == (1, 16)


def test_biases_alone_move(tmp_path: Path) -> None:
    whole = tmp_path / "run"
    small_run(whole, "model.text.freeze=biases", "train.max_steps=3")
    small_run(tmp_path / "start", "model.text.freeze=biases", "train.max_steps=3", "optimizer.learning_rate=1e-30")
    moved = [
        name for name in differences(final_state(whole), final_state(tmp_path / "start"))
        if name.startswith("/weights/") and ".text.tower." in name
    ]  # fmt: skip
    assert moved
    assert all(name.endswith(".bias") for name in moved)


def test_what_thaws_warms_up_again() -> None:
    early, late = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    late.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [
            {"params": [early], "lr": 1.0, "base_lr": 1.0, "thaws_at": None},
            {"params": [late], "lr": 1.0, "base_lr": 0.1, "thaws_at": 1.0},
        ]
    )
    section = ScheduleSection(name="constant", warmup_steps=2, thaw_warmup_steps=4)
    schedule = Schedule(section, 20)
    rates = []
    for step in range(12):
        if step == 5:
            late.requires_grad_(True)
        if step == 7:  # stopped and resumed
            state = schedule.state_dict()
            schedule = Schedule(section, 20)
            schedule.load_state_dict(state)
        schedule.apply(optimizer, step)
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert [round(pair[1], 6) for pair in rates[5:]] == [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1]
    assert [pair[0] for pair in rates] == [0.5, *[1.0] * 11]
    assert Schedule(ScheduleSection(warmup_steps=3), 20).thaw_warmup_steps == 3
    assert Schedule(ScheduleSection(warmup_steps=0), 20).apply(optimizer, 6) < 1  # no warm-up: no division by zero


def test_class_names_are_captions_where_there_are_none(tmp_path: Path) -> None:
    """FLYP (arXiv:2212.00638): prompts of class names, images of one class belong together."""
    from PIL import Image

    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "group"])
        for number, label in enumerate(["red_fox", "owl", "red_fox", "owl"]):
            Image.new("RGB", (8, 8), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
            writer.writerow([f"{number}.png", label, f"g{number}"])
    dataset = load(str(tmp_path / "rows.csv"))
    assert dataset.column("texts") == [["red fox"], ["owl"], ["red fox"], ["owl"]]
    assert dataset.column("label") == ["red_fox", "owl", "red_fox", "owl"]
    assert dataset.group_ids().tolist() == [0, 1, 0, 1]
    own = load(str(tmp_path / "rows.csv"), columns={"text": "label", "group": "group"})
    assert own.group_ids().tolist() == [0, 1, 2, 3]
