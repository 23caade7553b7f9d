"""How hardness grows over a run."""

from __future__ import annotations

import math

import pytest

from mmcl.errors import ConfigError
from mmcl.negatives.hardness import SCHEDULES, HardnessSchedule


def values(schedule: HardnessSchedule, losses: list[float], chance: float | None = 4.0) -> list[float]:
    found = [float(schedule.value)]
    for step, loss in enumerate(losses):
        schedule.update(loss=loss, chance=chance, done=(step + 1) / len(losses))
        found.append(float(schedule.value))
    return found


def test_constant_and_linear() -> None:
    assert values(HardnessSchedule(1.5), [3.0, 2.0]) == [1.5, 1.5, 1.5]
    assert values(HardnessSchedule(2.0, "linear"), [9.0, 1.0, 7.0, 2.0]) == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_it_grows_as_the_smoothed_loss_leaves_chance() -> None:
    losses = [4.5, 4.0, 1.0, 1.0, 0.0, 2.0]
    average, wanted = math.nan, [0.0]
    for loss in losses:
        average = loss if math.isnan(average) else 0.95 * average + 0.05 * loss
        wanted.append(3.0 * min(1.0, max(0.0, 1 - average / 4.0)))
    assert values(HardnessSchedule(3.0, "loss"), losses) == pytest.approx(wanted, abs=1e-12)
    assert wanted[1] == 0.0 < wanted[5]
    falling = values(HardnessSchedule(3.0, "loss"), [4.0] + [0.0] * 400)
    assert falling == sorted(falling)
    assert falling[-1] == pytest.approx(3.0, abs=1e-6)


def test_a_loss_that_is_not_finite_or_has_no_chance_changes_nothing() -> None:
    schedule = HardnessSchedule(3.0, "loss")
    assert values(schedule, [math.nan, math.inf]) == [0.0, 0.0, 0.0]
    assert values(schedule, [1.0], chance=None) == [0.0, 0.0]
    assert values(schedule, [1.0])[-1] == pytest.approx(3.0 * 0.75)


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_goes_on_from_its_state(name: str) -> None:
    one, other = HardnessSchedule(2.0, name), HardnessSchedule(2.0, name)
    values(one, [3.0, 2.0])
    other.load_state_dict(one.state_dict())
    assert values(one, [1.0, 0.5]) == values(other, [1.0, 0.5])
    if name == "loss":
        assert values(HardnessSchedule(2.0, name), [1.0, 0.5]) != values(one, [1.0, 0.5])


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="schedule is 'cosine'; want constant, linear, loss"):
        HardnessSchedule(1.0, "cosine")
    with pytest.raises(ConfigError, match="hardness is -1"):
        HardnessSchedule(-1.0)
