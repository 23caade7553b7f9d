"""`render_robustness`: a model under every condition, one a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmcl.evaluation.report.terminal import MEASURES

if TYPE_CHECKING:
    from rich.table import Table

_SEVERITY = re.compile(r"severity_(\d)")
_ATTACK = re.compile(r"(fgsm|pgd)_eps(.+)")
_ONE_CONDITION = re.compile(r"_\d$")
_SUMS = ("chance", "clean", "corruption_mean", "relative_drop", "text_mean")


def render_robustness(metrics: Mapping[str, float | list[float]]) -> Table:
    """A table of corruptions, severities, changes of captions and attacks.

    Args:
        metrics: from `RobustnessEvaluator`, any others among them.

    Returns:
        One row a condition, one column a measure, in percent; corruptions are means over severities. Without any
        metric of robustness it has no rows.
    """
    from rich.table import Table

    found: dict[str, dict[str, float]] = {}  # condition -> measure -> value
    for name, value in metrics.items():
        for measure in MEASURES:
            condition = name.removeprefix(f"robustness/{measure}_")
            if condition != name and isinstance(value, int | float) and _is_condition(condition):
                found.setdefault(condition, {})[measure] = value
    shown = [measure for measure in MEASURES if any(measure in row for row in found.values())]
    table = Table("condition", title="robustness")
    for measure in shown:
        table.add_column(MEASURES[measure], justify="right")
    kind = None
    for condition in sorted(found, key=lambda name: _named(name)[0]):  # stable: within a kind as they came
        number, words = _named(condition)
        if kind is not None and number != kind:
            table.add_section()
        kind = number
        cells = [f"{100 * found[condition][one]:.1f} %" if one in found[condition] else "" for one in shown]
        table.add_row(words, *cells)
    return table


def _is_condition(name: str) -> bool:
    return name == "clean" or not (name in _SUMS or (_ONE_CONDITION.search(name) and not _SEVERITY.fullmatch(name)))


def _named(condition: str) -> tuple[int, str]:
    """The kind of a condition, by which rows are ordered, and its words."""
    if condition == "clean":
        return 0, "unchanged"
    severity, attack = _SEVERITY.fullmatch(condition), _ATTACK.fullmatch(condition)
    if severity:
        return 2, f"severity {severity[1]}, mean of corruptions"
    if attack:
        return 4, f"{attack[1].upper()}, {attack[2]}/255"
    if condition.startswith("text_"):
        return 3, f"captions: {condition.removeprefix('text_').replace('_', ' ')}"
    return 1, condition.replace("_", " ")
