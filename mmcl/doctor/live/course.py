"""`Course`: what the lines of ``metrics.jsonl`` have said so far, as far as the doctor's rules need it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from mmcl.config import Recipe
from mmcl.doctor.live.vital_signs import loss_counts_groups

WINDOW = 5  # lines that are looked at together


class Course:
    """A run as its records tell it, in order.

    Args:
        recipe: what is run.

    Attributes:
        steps: the newest lines of steps, at most ``WINDOW``.
        signs: the newest of them that hold embedding signs, at most ``WINDOW``.
        first, first_signs: the first of each; None: none yet.
        lowest: the lowest mean loss over ``WINDOW`` lines, and the step it was reached at.
        largest_update: the largest ``update_ratio`` so far.
        evaluations: (step, value of ``evaluate.metric``, mean loss then) of every evaluation.
        waited, worked: seconds spent waiting for batches and computing, the first line left out.
        updates: steps taken in; ``skipped_updates`` of them left out by a scaler.
        finished: whether there are no more lines to come.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.steps: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self.signs: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self.first: Mapping[str, Any] | None = None
        self.first_signs: Mapping[str, Any] | None = None
        self.lowest, self.lowest_step = math.inf, 0
        self.largest_update = 0.0
        self.early_grad_norms: list[float] = []
        self.evaluations: list[tuple[int, float, float]] = []
        self.waited = self.worked = 0.0
        self.finished = False

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a line in: of a step, or of an evaluation."""
        if "loss" not in record:
            value = record.get(self.recipe.evaluate.metric)
            if isinstance(value, (int, float)):
                self.evaluations.append((record["step"], float(value), self.mean("loss")))
            return
        before = self.step
        self.steps.append(record)
        self._time(record, before)
        if self.first is None:
            self.first = record
        if "sign_rows" in record:
            self.signs.append(record)
            self.first_signs = self.first_signs or record
        self.largest_update = max(self.largest_update, record.get("update_ratio") or 0.0)
        grad_norm = record.get("grad_norm")
        if len(self.early_grad_norms) < WINDOW and grad_norm is not None:
            self.early_grad_norms.append(grad_norm)
        level = self.mean("loss")
        if len(self.steps) == WINDOW and level < self.lowest:
            self.lowest, self.lowest_step = level, self.step

    def _time(self, record: Mapping[str, Any], before: int) -> None:
        if self.first is None or "loader_seconds" not in record:
            return  # the first line pays for all that begins
        steps = max(1, record["step"] - before)
        self.waited += steps * record["loader_seconds"]
        self.worked += steps * record["step_seconds"]

    @property
    def step(self) -> int:
        """The newest step; 0 before the first."""
        return self.steps[-1]["step"] if self.steps else 0

    @property
    def steps_an_epoch(self) -> float:
        """Batches of an epoch; NaN before the first step."""
        return self.step / self.steps[-1]["epoch"] if self.steps and self.steps[-1]["epoch"] else math.nan

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; those so far where nothing says how many there will be."""
        if self.recipe.train.max_steps is not None:
            return self.recipe.train.max_steps
        each = self.steps_an_epoch
        return self.step if math.isnan(each) else math.ceil(round(self.recipe.train.epochs * each, 2))

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        section = self.recipe.schedule
        asked = round(section.warmup_share * self.total_steps) if section.warmup_steps is None else section.warmup_steps
        return min(self.total_steps, asked)

    @property
    def chance(self) -> float | None:
        """The loss of a model that cannot tell pairs apart; None where the loss has none."""
        return self.steps[-1].get("chance_loss") if self.steps else None

    @property
    def groups_count(self) -> bool:
        """Whether the loss takes rows of one group for positives."""
        return loss_counts_groups(self.recipe.loss)

    def values(self, name: str, *, signs: bool = False) -> list[float]:
        """A number of the newest lines, oldest first; those that lack it, or where it was not finite, are left out."""
        found = [record.get(name) for record in (self.signs if signs else self.steps)]
        return [float(value) for value in found if value is not None]

    def mean(self, name: str, *, signs: bool = False) -> float:
        """The mean of ``values``; NaN where there are none."""
        values = self.values(name, signs=signs)
        return sum(values) / len(values) if values else math.nan

    def has_signs(self, fewest: int = 3) -> bool:
        """Whether the newest signs are enough to judge by; at the end of a run, two are."""
        return len(self.signs) >= (min(fewest, 2) if self.finished else fewest)
