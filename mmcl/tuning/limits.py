"""How long a search may take: wall time, trials, or both."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from mmcl.errors import ConfigError

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")
DEFAULT_BUDGET = 600.0
SHARE_OF_REPEATS = 0.4  # of the budget at most, kept for other seeds
MARGIN = 1.15  # on what a training is expected to take


def parse_budget(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``2h`` or ``1h30m``.

    Raises:
        ConfigError: it is none of these, or nothing.

    Example:
        >>> parse_budget("1h30m")
        5400.0
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1))) if found else 0.0
    if seconds <= 0:
        raise ConfigError(f"--budget {text!r}: want a time such as 90s, 10m, 2h or 1h30m")
    return seconds


def write_duration(seconds: float) -> str:
    """``42 s``, ``3 m 20 s``, ``1 h 05 m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


@dataclass
class Limits:
    """What is left of a search's time.

    Attributes:
        budget: seconds of wall time from ``began``; None: no limit.
        trials: of the search, the recipe's own among them; None: no limit.
        began: by ``time.monotonic()``.
    """

    budget: float | None
    trials: int | None
    began: float

    @classmethod
    def start(cls, budget: float | None, trials: int | None) -> Limits:
        """From now on.

        Raises:
            ConfigError: no trial, or no time.
        """
        if trials is not None and trials < 1:
            raise ConfigError(f"--trials is {trials}; want at least 1, the recipe's own settings")
        if budget is None and trials is None:
            budget = DEFAULT_BUDGET
        return cls(budget, trials, time.monotonic())

    @property
    def end(self) -> float | None:
        """When the budget is spent, by ``time.monotonic()``."""
        return None if self.budget is None else self.began + self.budget

    @property
    def left(self) -> float:
        """Seconds; infinite without a budget."""
        return float("inf") if self.end is None else self.end - time.monotonic()

    def search_end(self, share: float, *, repeats: int, each: float) -> float | None:
        """When a stage of the search ends, so that time is left for repeats.

        Args:
            share: of the budget that all stages up to this one may have used, without the part kept for repeats.
            repeats: trainings with other seeds to come.
            each: seconds of one.
        """
        if self.budget is None:
            return None
        kept = min(SHARE_OF_REPEATS * self.budget, repeats * each * MARGIN)
        return self.began + share * (self.budget - kept)


def typical_seconds(seconds: Sequence[float], default: float = 0.0) -> float:
    """The median of what trainings took; the first one also waited for data and features."""
    return statistics.median(seconds[1:] or seconds) if seconds else default
