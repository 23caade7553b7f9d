"""`HardnessSchedule`: how much harder negatives weigh more, growing with the run."""

from __future__ import annotations

import math

import torch
from torch import nn

from mmcl.errors import ConfigError

SCHEDULES = ("constant", "linear", "loss")


class HardnessSchedule(nn.Module):
    r"""The exponent :math:`\beta` of a hardness-weighted loss at the present step.

    ``constant``: ``hardness`` all the time. ``linear``: ``hardness`` times the share of the run that is done. ``loss``:
    ``hardness`` times :math:`1 - \bar L / L_0`, kept within [0, 1], with the moving average :math:`\bar L` of the loss
    and :math:`L_0` its value at chance: as long as the model cannot tell pairs apart, all negatives weigh the same.

    Args:
        hardness: what it grows to, >= 0.
        schedule: one of ``SCHEDULES``.

    Raises:
        ConfigError: another schedule, or a negative hardness.

    Source: the exponent: Robinson et al. 2021 (arXiv:2010.04592) section 4, where it is constant. The schedules are
    this package's own.

    Example:
        >>> schedule = HardnessSchedule(2.0, "linear")
        >>> schedule.update(loss=3.0, chance=4.0, done=0.25)
        >>> float(schedule.value)
        0.5
    """

    SMOOTHING = 0.95

    def __init__(self, hardness: float, schedule: str = "constant") -> None:
        super().__init__()
        if schedule not in SCHEDULES:
            raise ConfigError(f"schedule is {schedule!r}; want {', '.join(SCHEDULES)}")
        if not hardness >= 0:
            raise ConfigError(f"hardness is {hardness}; want >= 0")
        self.hardness, self.schedule = hardness, schedule
        start = hardness if schedule == "constant" else 0.0
        self.register_buffer("value", torch.tensor(start, dtype=torch.float64))
        # Of the loss; NaN before the first.
        self.register_buffer("average", torch.tensor(math.nan, dtype=torch.float64))

    def update(self, *, loss: float, chance: float | None, done: float) -> None:
        """Take a step in.

        Args:
            loss: of the step, over all rows; one that is not finite is passed over.
            chance: the loss of a model that cannot tell pairs apart; None: the schedule ``loss`` stays where it is.
            done: share of the run's steps that are done, in [0, 1].
        """
        if self.schedule == "linear":
            self.value.fill_(self.hardness * done)
        elif self.schedule == "loss" and math.isfinite(loss) and chance is not None and chance > 0:
            before = float(self.average)
            average = loss if math.isnan(before) else self.SMOOTHING * before + (1 - self.SMOOTHING) * loss
            self.average.fill_(average)
            self.value.fill_(self.hardness * min(1.0, max(0.0, 1 - average / chance)))
