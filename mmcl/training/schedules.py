"""Learning-rate schedules: warm-up, then a factor on every group's own rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from mmcl.config import ScheduleSection


class Schedule:
    """The factor on the learning rate at every step of a run.

    A linear warm-up from ``1 / warmup_steps``, then, with progress p from 0 to 1 over the rest:
    cosine ``m + (1 - m)(1 + cos(pi p)) / 2`` (arXiv:1608.03983 eq. 5, one cycle), linear ``1 - (1 - m) p``, constant 1,
    exponential ``gamma ** p``, step ``gamma ** (milestones passed)``, plateau ``gamma ** drops``.

    What thaws on the way (a group with ``thaws_at``) gets, from its first step on, a linear warm-up of its own on top
    of that factor: the optimizer has no moments of it yet. Where fine-tuning follows on probing as a run of its own
    (Kumar et al. 2022, arXiv:2202.10054), it starts a schedule of its own; here the run's factor goes on falling.

    Args:
        section: the recipe's ``schedule``.
        total_steps: of the whole run.
        maximise: whether a larger metric is better (plateau).
    """

    def __init__(self, section: ScheduleSection, total_steps: int, *, maximise: bool = True) -> None:
        self.section, self.total_steps, self.maximise = section, total_steps, maximise
        asked = section.warmup_steps
        self.warmup_steps = min(total_steps, round(section.warmup_share * total_steps) if asked is None else asked)
        own = section.thaw_warmup_steps
        self.thaw_warmup_steps = self.warmup_steps if own is None else own
        self.thawed: dict[str, int] = {}  # epoch of thawing -> the first step with it
        self.drops, self.stale, self.best = 0, 0, -math.inf

    def factor(self, step: int) -> float:
        """The factor for the step with this number, from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        floor = self.section.min_factor
        name, gamma = self.section.name, self.section.gamma
        if name == "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
        if name == "linear":
            return max(floor, 1 - (1 - floor) * progress)
        if name == "exponential":
            return max(floor, gamma**progress)
        if name == "step":
            return max(floor, gamma ** sum(progress >= milestone for milestone in self.section.milestones))
        return max(floor, gamma**self.drops)  # constant never drops

    def apply(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set every group's rate for a step; returns the factor of those that trained from the start."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor * self._since_thawing(group, step)
        return factor

    def _since_thawing(self, group: dict[str, Any], step: int) -> float:
        epoch = group.get("thaws_at")
        if epoch is None or not group["params"][0].requires_grad:
            return 1.0
        first = self.thawed.setdefault(str(epoch), step)
        return min(1.0, (step - first + 1) / self.thaw_warmup_steps) if self.thaw_warmup_steps else 1.0

    def saw_metric(self, value: float) -> None:
        """Tell the plateau schedule an evaluation's result."""
        if self.section.name != "plateau":
            return
        value = value if self.maximise else -value
        if value > self.best:
            self.best, self.stale = value, 0
            return
        self.stale += 1
        if self.stale > self.section.patience:
            self.drops, self.stale = self.drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """What resume needs."""
        return {"drops": self.drops, "stale": self.stale, "best": self.best, "thawed": dict(self.thawed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.drops, self.stale, self.best = state["drops"], state["stale"], state["best"]
        self.thawed = dict(state.get("thawed", {}))  # of a checkpoint written before there was one
