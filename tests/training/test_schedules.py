"""Learning-rate schedules against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from mmcl.config import ScheduleSection
from mmcl.training.schedules import Schedule

STEPS, WARMUP = 110, 10


def factors(**section: object) -> list[float]:
    schedule = Schedule(ScheduleSection(**{"warmup_steps": WARMUP, **section}), STEPS)
    return [schedule.factor(step) for step in range(STEPS)]


@pytest.mark.parametrize("name", ["cosine", "constant", "linear", "exponential", "step", "plateau"])
def test_warm_up_rises_in_equal_steps(name: str) -> None:
    assert factors(name=name)[:WARMUP] == pytest.approx([(step + 1) / WARMUP for step in range(WARMUP)])


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_closed_forms(floor: float) -> None:
    progress = [(step - WARMUP) / (STEPS - WARMUP) for step in range(WARMUP, STEPS)]
    expected = {
        "cosine": [floor + (1 - floor) * (1 + math.cos(math.pi * p)) / 2 for p in progress],
        "linear": [max(floor, 1 - (1 - floor) * p) for p in progress],
        "exponential": [max(floor, 0.05**p) for p in progress],
        "constant": [1.0] * len(progress),
        "step": [max(floor, 0.05 ** ((p >= 0.5) + (p >= 0.75))) for p in progress],
    }
    for name, values in expected.items():
        assert factors(name=name, min_factor=floor, gamma=0.05)[WARMUP:] == pytest.approx(values), name
    assert factors(name="cosine")[60] == pytest.approx(0.5)
    assert factors(name="cosine")[-1] < 0.001


def test_warm_up_by_share_and_at_most_the_whole_run() -> None:
    assert Schedule(ScheduleSection(warmup_share=0.2), 50).warmup_steps == 10
    assert Schedule(ScheduleSection(), 100).warmup_steps == 5
    short = Schedule(ScheduleSection(warmup_steps=100), 4)
    assert [short.factor(step) for step in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    one = Schedule(ScheduleSection(), 1)
    assert one.factor(0) == 1.0


@pytest.mark.parametrize(("maximise", "sign"), [(True, 1), (False, -1)])
def test_plateau_drops_after_patience(maximise: bool, sign: int) -> None:
    schedule = Schedule(ScheduleSection(name="plateau", warmup_steps=0, patience=1, gamma=0.5), 100, maximise=maximise)
    seen = []
    for value in (0.1, 0.2, 0.2, 0.1, 0.3, 0.2, 0.2, 0.2):
        schedule.saw_metric(sign * value)
        seen.append(schedule.factor(50))
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]
    floored = Schedule(ScheduleSection(name="plateau", warmup_steps=0, patience=0, gamma=0.1, min_factor=0.3), 100)
    for value in (0.5, 0.4, 0.4):
        floored.saw_metric(value)
    assert floored.factor(50) == 0.3
    resumed = Schedule(ScheduleSection(name="plateau", warmup_steps=0, patience=1, gamma=0.5), 100, maximise=maximise)
    resumed.load_state_dict(schedule.state_dict())
    for each in (schedule, resumed):
        each.saw_metric(sign * 0.2)
    assert resumed.factor(50) == schedule.factor(50) != 1.0


def test_other_schedules_do_not_look_at_metrics() -> None:
    schedule = Schedule(ScheduleSection(warmup_steps=0, patience=0), 100)
    before = schedule.factor(50)
    for _ in range(5):
        schedule.saw_metric(0.0)
    assert schedule.factor(50) == before


def test_every_group_keeps_its_own_rate() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": [weights[0]], "lr": 1.0, "base_lr": 1.0}, {"params": [weights[1]], "lr": 0.1, "base_lr": 0.1}]
    )
    schedule = Schedule(ScheduleSection(name="linear", warmup_steps=0), 4)
    for step, factor in enumerate([1.0, 0.75, 0.5, 0.25]):
        assert schedule.apply(optimizer, step) == factor
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor, 0.1 * factor])
