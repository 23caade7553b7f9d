"""Keeps an eye on the loss: not finite, or diverged. What else goes wrong, ``mmcl.doctor.live`` tells."""

from __future__ import annotations

import math
from typing import Any


class LossWatch:
    """A smoothed loss and what it says.

    Args:
        batch_size: rows of a whole step; chance is their logarithm, until it is set otherwise.

    Attributes:
        chance: the loss of a model that cannot tell pairs apart. None where the loss has no such value: its start then
            says what is high.
    """

    SMOOTHING = 0.95
    PATIENCE = 50  # steps before the loss may be called diverged

    def __init__(self, *, batch_size: int) -> None:
        self.chance: float | None = math.log(batch_size)
        self.average: float | None = None
        self.lowest = math.inf
        self.first = math.nan
        self.steps = 0

    def complaint(self, loss: float) -> str | None:
        """Take a step's loss in; a sentence when training must stop, None while it may go on."""
        if not math.isfinite(loss):
            return f"the loss is {loss}."
        self.steps += 1
        if self.average is None:
            self.average = self.first = loss
        self.average = self.SMOOTHING * self.average + (1 - self.SMOOTHING) * loss
        self.lowest = min(self.lowest, self.average)
        ceiling = 3 * max(self.first if self.chance is None else self.chance, self.lowest)
        if self.steps > self.PATIENCE and self.average > ceiling:
            start = f"it began at {self.first:.2f}" if self.chance is None else f"chance is {self.chance:.2f}"
            return f"the loss has diverged: {self.average:.2f} on average, {start} and it had been {self.lowest:.2f}."
        return None

    def state_dict(self) -> dict[str, Any]:
        """What resume needs."""
        names = ("average", "lowest", "first", "steps")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.average, self.lowest, self.first = state["average"], state["lowest"], state["first"]
        self.steps = state["steps"]
