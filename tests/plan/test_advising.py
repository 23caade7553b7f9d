"""Warnings of plans made by hand: each where its cause is, none where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcl.config import Recipe, recipe_from_tree
from mmcl.data.sources.loading import load
from mmcl.plan.advising import advise
from mmcl.plan.forecast import (
    DataForecast,
    DiskForecast,
    MemoryForecast,
    PartParameters,
    PhaseForecast,
    Plan,
    TimeForecast,
)
from mmcl.plan.survey import repeated_captions
from mmcl.plan.wording import counted, duration, size

GIB = float(2**30)
MACHINE = {"bf16": True, "cores": 8}


def recipe(**sections: Any) -> Recipe:
    return recipe_from_tree({"data": {"path": "shapes"}, **sections}, source="test")


def plan() -> Plan:
    """A healthy one."""
    stages = {"training steps": 2 * GIB, "evaluation": GIB}
    return Plan(
        recipe="test",
        run_dir="runs/test",
        device="cpu",
        device_name="",
        parameters=[
            PartParameters(name, 100, 100) for name in ("image tower", "image head", "text tower", "text head")
        ],
        data=DataForecast(1000, {"validation": 100}, 1.0, 100, 10, 100, 0.0),
        memory=MemoryForecast(
            2 * GIB, stages, GIB, 1e7, 0.0, [(16, GIB)], 100, 2 * GIB, 2 * GIB, False, 8 * GIB, 500, None, 16
        ),
        time=TimeForecast(5.0, 0.0, 1.0, [PhaseForecast(0.0, 100, 1.0, 10, 1.0)], 1.0, 1.0),
        disk=DiskForecast(1000, 2, 1000, 1000, 0, 0, 10**9, 10**9),
    )


def abouts(made: Plan, asked: Recipe | None = None, *, workers: int = 0, **machine: Any) -> list[str]:
    answer = {"machine": {**MACHINE, **machine}, "workers": workers, "untried": []}
    return [advice.about for advice in advise(made, asked or recipe(), answer)]


def test_a_healthy_plan_has_no_warning() -> None:
    assert abouts(plan()) == []


def changed(part: str, **values: Any) -> Plan:
    healthy = plan()
    return replace(healthy, **{part: replace(getattr(healthy, part), **values)})


FROZEN = [PartParameters("image tower", 100, 0), *plan().parameters[1:]]


@pytest.mark.parametrize(
    ("made", "asked", "machine", "about"),
    [
        (changed("memory", peak=9 * GIB), {}, {}, "memory"),
        (changed("memory", per_row_squared=1e6), {"loss": {"name": "dcl"}}, {}, "logits_memory"),
        (changed("disk", free=100), {}, {}, "disk_too_small"),
        (changed("disk", features=100, free_for_features=10), {}, {}, "disk_too_small"),
        (plan(), {"schedule": {"warmup_steps": 100}}, {}, "warm_up_too_long"),
        (changed("time", phases=[PhaseForecast(0, 10, 1, 2, 9)]), {}, {}, "evaluation_longer_than_training"),
        (changed("time", stopped_after=60.0), {"train": {"max_minutes": 1.0}}, {}, "max_minutes"),
        (changed("data", batch_size=2000, batches_per_epoch=1), {}, {}, "batch_larger_than_data"),
        (changed("data", batch_size=1000, batches_per_epoch=1), {}, {}, "epoch_of_one_step"),
        (changed("data", repeated_captions=0.2), {}, {}, "false_negatives"),
        (replace(plan(), parameters=FROZEN), {}, {}, "feature_cache_off"),
        (plan(), {"train": {"precision": "bf16"}}, {"bf16": False}, "slow_precision"),
        (plan(), {}, {"workers": 9}, "too_many_workers"),
        (changed("time", final=4000.0), {}, {}, "cpu_only"),
    ],
)
def test_each_cause_is_told_alone(made: Plan, asked: dict, machine: dict, about: str) -> None:
    assert abouts(made, recipe(**asked), **machine) == [about]


def test_a_folder_that_holds_a_run_is_told(tmp_path: Path) -> None:
    taken = recipe(run={"dir": str(tmp_path)})
    assert abouts(plan(), taken) == []
    (tmp_path / "config.yaml").touch()
    assert abouts(plan(), taken) == ["run_folder_taken"]


def test_every_warning_names_a_key() -> None:
    made = replace(changed("memory", peak=9 * GIB), data=changed("data", repeated_captions=0.2).data)
    for advice in advise(made, recipe(), {"machine": MACHINE, "workers": 99, "untried": ["image"]}):
        assert "." in advice.next_step
        assert advice.text


def test_repeated_captions_are_those_of_drawn_batches() -> None:
    train = load("shapes?train=400&image_size=16:train")
    texts = np.array([train.texts(row)[0] for row in range(len(train))])
    groups = train.group_ids().numpy()
    asked = recipe(train={"batch_size": 50}, loss={"positives": "pair"})
    draw, met = np.random.default_rng(0), []
    for _ in range(200):
        rows = draw.choice(len(train), 50, replace=False)
        same = (texts[rows][:, None] == texts[rows]) & ~np.eye(50, dtype=bool)
        met.append(same.any(1).mean())
    assert repeated_captions(asked, train) == pytest.approx(np.mean(met), abs=0.02)
    assert repeated_captions(recipe(batches={"name": "unique_groups"}), train) == 0.0
    others = (texts[:, None] == texts) & (groups[:, None] != groups)
    assert (repeated_captions(recipe(train={"batch_size": 50}), train) > 0) == bool(others.any())


def test_numbers_are_said_as_people_say_them() -> None:
    assert [size(n) for n in (12, 2048, 3 * 2**20, 1.5 * GIB)] == ["12 bytes", "2 KiB", "3 MiB", "1.5 GiB"]
    assert [duration(s) for s in (0.004, 2, 90, 7260, 200000)] == [
        "4 ms",
        "2.0 s",
        "1 min 30 s",
        "2 h 1 min",
        "2.3 days",
    ]
    assert [counted(1, "row"), counted(2000, "batch")] == ["1 row", "2,000 batches"]
