"""A step that is over leaves no tensor behind: memory does not grow with the number of steps."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from small_runs import small_run
from torch import Tensor

EARLY, LATE = 4, 12


class LiveTensors:
    """A display that counts the tensors there are behind two steps."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        if record["step"] in (EARLY, LATE):
            gc.collect()
            self.counts[record["step"]] = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None:
        pass


@pytest.mark.parametrize(
    "overrides",
    [
        ("loss.name=info_nce", "loss.label_smoothing=0.1"),
        ("loss.name=sigmoid", "train.micro_batch_size=8"),
        ("train.weight_average.enabled=true", "train.weight_average.from_share=0", "optimizer.sam_rho=0.05"),
    ],
    ids=["smoothed", "micro-batches", "averaged, sharpness-aware"],
)
def test_steps_leave_no_tensors(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    live = LiveTensors()
    small_run(tmp_path, *overrides, display=live)
    assert live.counts[LATE] - live.counts[EARLY] <= 0
