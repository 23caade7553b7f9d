"""The sweep of a WiSE-FT interpolation as a page: a table, the target against the others, and all over alpha."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcl.evaluation.report.suite_table import is_fraction
from mmcl.hub.merging.choosing import Choice
from mmcl.hub.merging.wise_ft import Sweep
from mmcl.pages.figures import draw_lines
from mmcl.pages.page import Page


def sweep_rows(sweep: Sweep, choice: Choice) -> tuple[list[str], list[list[str]]]:
    """The header and rows of the table of a sweep; the chosen alpha has a mark.

    Args:
        sweep: what each alpha is worth.
        choice: which one was taken.
    """
    alike = len(set(sweep.metrics.values())) == 1
    first = f"alpha ({sweep.metrics[sweep.target]})" if alike else "alpha"
    header = [first, *(name if alike else f"{name}: {metric}" for name, metric in sweep.metrics.items()), ""]
    columns = [[write_metric(metric, value) for value in sweep.values(name)] for name, metric in sweep.metrics.items()]
    notes = [_note(alpha, choice.alpha) for alpha in sweep.alphas]
    alphas = [f"{alpha:g}" for alpha in sweep.alphas]
    return header, [list(row) for row in zip(alphas, *columns, notes)]


def _note(alpha: float, chosen: float) -> str:
    words = [*(["before"] if alpha == 0 else ["after"] if alpha == 1 else []), *(["chosen"] if alpha == chosen else [])]
    return ", ".join(words)


def write_metric(metric: str, value: float) -> str:
    """Per cent for fractions, a plain number for others."""
    return f"{100 * value:.2f} %" if is_fraction(metric) else f"{value:.4g}"


def sweep_page(sweep: Sweep, choice: Choice, *, title: str, notes: Sequence[str] = ()) -> Page:
    """The page of a sweep.

    Args:
        sweep: what each alpha is worth.
        choice: which one was taken, and why.
        title: of the page.
        notes: further paragraphs.

    Returns:
        A page, to be written.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    page = Page(title)
    page.paragraph(f"Chosen: alpha {choice.alpha:g}, {choice.reason}.")
    for note in notes:
        page.paragraph(note)
    target, metric = sweep.target, sweep.metrics[sweep.target]
    chosen = sweep.alphas.index(choice.alpha)
    for name in sweep.others:
        lines: dict[str, Any] = {"alphas": (sweep.values(name), sweep.values(target))}
        for label, row in (("before", sweep.alphas.index(0.0)), ("after", sweep.alphas.index(1.0)), ("chosen", chosen)):
            lines[label] = ([sweep.values(name)[row]], [sweep.values(target)[row]])
        drawn = draw_lines(lines, x_label=f"{name}: {sweep.metrics[name]}", y_label=f"{target}: {metric}")
        page.figure(drawn, caption=f"What the target gains against what {name} loses: up and to the right is better.")
    over = {name: (sweep.alphas, sweep.values(name)) for name in sweep.metrics}
    over["chosen"] = ([choice.alpha], [sweep.values(target)[chosen]])
    label = metric if len(set(sweep.metrics.values())) == 1 else "metric"
    caption = "Over alpha: 0 is the model before fine-tuning, 1 the one after."
    page.figure(draw_lines(over, x_label="alpha", y_label=label), caption=caption)
    header, rows = sweep_rows(sweep, choice)
    page.table(header, rows, caption="weights = (1 - alpha) * before + alpha * after")
    return page
