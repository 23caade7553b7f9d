"""What merging knows of judging: a callable from an embedder to metrics, and one metric that counts."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any

from mmcl.embedder import Embedder
from mmcl.errors import ConfigError

# An embedder to metrics by name, such as an ``Evaluator``.
Judge = Callable[[Embedder], Mapping[str, Any]]

# Called with what is done, how far it is, and of how much.
ProgressCallback = Callable[[str, int, int], None]


def metric_value(found: Mapping[str, Any], metric: str, where: str) -> float:
    """The metric that counts among those that were found.

    Args:
        found: from a `Judge`.
        metric: its name; the higher, the better.
        where: the data, for the message.

    Raises:
        ConfigError: it is not there (the nearest is named), or is no finite number.
    """
    if metric not in found:
        numbers = [name for name, value in found.items() if isinstance(value, (int, float))]
        near = difflib.get_close_matches(metric, numbers, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(numbers[:8]) or 'none'}"
        raise ConfigError(f"{where} gives no metric {metric!r}; {hint}")
    value = found[metric]
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigError(f"{where}: {metric} is {value!r}, no finite number that models could be chosen by")
    return float(value)


def check_metrics(judges: Mapping[str, Judge], metrics: Mapping[str, str]) -> None:
    """Refuse judges without a metric, and metrics without a judge.

    Raises:
        ConfigError: names the one.
    """
    if not judges:
        raise ConfigError("there is no judge; give at least one, of the data that the model was trained for")
    if [*judges] != [*metrics]:
        raise ConfigError(f"judges are of {', '.join(judges)} and metrics of {', '.join(metrics)}; give both in order")
