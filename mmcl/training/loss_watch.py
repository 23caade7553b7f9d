"""Keeps an eye on the loss: not finite, diverged, or stuck at chance."""

from __future__ import annotations

import math
from typing import Any

from mmcl.logs import get_logger

log = get_logger(__name__)


class LossWatch:
    """A smoothed loss and what it says.

    Args:
        batch_size: rows of a whole step; chance is their logarithm, until it is set otherwise.
        warmup_steps: no verdict on a stuck loss before they are over.

    Attributes:
        chance: the loss of a model that cannot tell pairs apart. None where the loss has no such value: its start then
            says what is high, and nothing says that it is stuck.
    """

    SMOOTHING = 0.95
    PATIENCE = 50  # steps before the loss may be called diverged
    STUCK_AFTER = 200  # steps behind the warm-up before it may be called stuck

    def __init__(self, *, batch_size: int, warmup_steps: int) -> None:
        self.chance: float | None = math.log(batch_size)
        self.warmup_steps = warmup_steps
        self.average: float | None = None
        self.lowest = math.inf
        self.first = math.nan
        self.steps = 0
        self.warned = False

    def complaint(self, loss: float, *, step: int) -> str | None:
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
        self._warn_when_stuck(step)
        return None

    def _warn_when_stuck(self, step: int) -> None:
        late = step >= self.warmup_steps + self.STUCK_AFTER
        if self.warned or not late or self.chance is None or self.average < 0.98 * self.chance:
            return
        self.warned = True
        log.warning(
            "step %d: the loss is still %.2f, which is chance (%.2f): the model cannot tell the pairs "
            "apart yet. Common causes: a learning rate too high (embeddings collapse) or too low, captions that repeat "
            "within a batch (give them a group), images and captions that do not belong together",
            step,
            self.average,
            self.chance,
        )

    def state_dict(self) -> dict[str, Any]:
        """What resume needs."""
        names = ("average", "lowest", "first", "steps", "warned")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.average, self.lowest, self.first = state["average"], state["lowest"], state["first"]
        self.steps, self.warned = state["steps"], state["warned"]
