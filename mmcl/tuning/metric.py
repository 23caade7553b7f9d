"""What counts: one metric of the validation split, or a weighted sum of several."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcl.errors import ConfigError
from mmcl.evaluation.report.suite_table import is_fraction

_TERM = re.compile(r"(?:(\d+\.?\d*|\.\d+)\*)?([A-Za-z][\w/@.-]*)")


@dataclass(frozen=True)
class Metric:
    """A weighted sum of metrics.

    Attributes:
        weights: name -> weight.
        mode: ``"max"`` or ``"min"``.

    Example:
        >>> metric = Metric.parse("retrieval/mean_recall@1+0.5*zeroshot/top1", mode="max")
        >>> metric({"retrieval/mean_recall@1": 0.2, "zeroshot/top1": 0.4})
        0.4
    """

    weights: tuple[tuple[str, float], ...]
    mode: str

    @classmethod
    def parse(cls, text: str, *, mode: str) -> Metric:
        """``NAME``, or ``NAME+0.5*NAME``.

        Raises:
            ConfigError: it is neither.
        """
        terms = []
        for part in text.split("+"):
            found = _TERM.fullmatch(part.strip())
            if found is None:
                raise ConfigError(
                    f"--metric {text!r}: {part.strip()!r} is no metric; want TASK/NAME, or a sum such as "
                    f"retrieval/mean_recall@1+0.5*zeroshot/top1"
                )
            terms.append((found[2], float(found[1]) if found[1] else 1.0))
        names = [name for name, _ in terms]
        if len(set(names)) != len(names):
            raise ConfigError(f"--metric {text!r} names a metric twice; give it one weight")
        return cls(tuple(terms), mode)

    @property
    def single(self) -> str | None:
        """The name of the one metric; None for a sum."""
        return self.weights[0][0] if len(self.weights) == 1 and self.weights[0][1] == 1 else None

    @property
    def name(self) -> str:
        """As it was given."""
        return "+".join(name if weight == 1 else f"{weight:g}*{name}" for name, weight in self.weights)

    def __call__(self, metrics: Mapping[str, Any]) -> float:
        """The value of an evaluation.

        Raises:
            ConfigError: a metric was not measured.
        """
        total = 0.0
        for name, weight in self.weights:
            value = metrics.get(name)
            if not isinstance(value, (int, float)):
                numbers = sorted(n for n, v in metrics.items() if isinstance(v, (int, float)) and "/" in n)
                raise ConfigError(f"--metric {name}: evaluate.tasks measure {', '.join(numbers)} on these data")
            total += weight * value
        return total

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another; NaN never is."""
        return one > other if self.mode == "max" else one < other

    def gain(self, one: float, other: float) -> float:
        """How much better one value is than another; below 0: worse."""
        return one - other if self.mode == "max" else other - one

    @property
    def is_fraction(self) -> bool:
        """Whether values are shares, shown as per cent."""
        return all(is_fraction(name) for name, _ in self.weights)

    def show(self, value: float | None) -> str:
        """A value for people; a dash for none."""
        if value is None or math.isnan(value):
            return "-"
        return f"{100 * value:.2f} %" if self.is_fraction else f"{value:.4g}"

    def show_gain(self, gain: float) -> str:
        """A difference for people: points for shares."""
        return f"{100 * gain:+.2f} points" if self.is_fraction else f"{gain:+.4g}"
