"""Tables of two models beside one another, of before and after, and of languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mmcl.evaluation.report.retrieval_rows import WAYS

if TYPE_CHECKING:
    from rich.table import Table

    from mmcl.evaluation.comparison import ComparedMetric, Comparison
    from mmcl.evaluation.forgetting import Forgetting


def render_comparison(comparison: Comparison, *, title: str) -> Table:
    """A row a metric: both models, B's lead with its 95 % interval, its p-value, and that corrected for all rows.

    Args:
        comparison: from `compare_models`.
        title: above the table.
    """
    from rich.markup import escape
    from rich.table import Table

    counts = f"{comparison.num_images:,} images"
    if comparison.num_left_out:
        counts += f"; {comparison.num_left_out:,} left out, which one model could not read"
    table = Table(title=escape(title), caption=f"{counts}; p by paired permutation of groups, adjusted after Holm")
    table.add_column("metric")
    for name in ("A", "B", "B - A", "95 % interval", "p", "p adj."):
        table.add_column(name, justify="right")
    for one in comparison.metrics:
        table.add_row(*compared_row(one))
    return table


def render_forgetting(forgetting: Forgetting, *, title: str) -> Table:
    """A row a metric of each data set: before, after, the change with its 95 % interval and corrected p-value.

    Args:
        forgetting: from `measure_forgetting`.
        title: above the table.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), caption="p by paired permutation of groups, adjusted after Holm")
    table.add_column("data")
    table.add_column("metric")
    for name in ("before", "after", "change", "95 % interval", "p", "p adj."):
        table.add_column(name, justify="right")
    for change in forgetting.changes:
        for one in change.metrics:
            table.add_row(escape(change.name), *compared_row(one))
        table.add_section()
    return table


def render_languages(metrics: Mapping[str, float | list[float]], languages: Iterable[str], *, title: str) -> Table:
    """A row a language: its captions, and recall both ways with 95 % intervals.

    Args:
        metrics: from `LanguagesEvaluator`.
        languages: in the order to show them.
        title: above the table.
    """
    from rich.markup import escape
    from rich.table import Table

    k = min(int(name.rpartition("@")[2]) for name in metrics if name.startswith("languages/mean_recall@"))
    table = Table(title=escape(title), caption="in brackets: 95 % intervals")
    table.add_column("language")
    for name in ("captions", "missing"):
        table.add_column(name, justify="right")
    for words in WAYS.values():
        table.add_column(f"{words} R@{k}, %", justify="right", no_wrap=True)
    table.add_column("chance", justify="right")
    for language in languages:
        counts = [f"{metrics[f'languages/{language}_num_{what}']:,.0f}" for what in ("texts", "missing")]
        names = [f"languages/{language}_{way}_recall@{k}" for way in WAYS]
        chance = _percent(metrics[f"languages/{language}_i2t_chance_recall@{k}"])
        table.add_row(escape(language), *counts, *(_with_interval(metrics, name) for name in names), chance)
    table.add_section()
    for summary in ("mean", "worst", "best", "spread"):
        table.add_row(
            summary, "", "", *(_percent(metrics[f"languages/{summary}_{way}_recall@{k}"]) for way in WAYS), ""
        )
    return table


def compared_row(one: ComparedMetric) -> list[str]:
    """The cells of one compared metric: its name, A, B, B - A, the interval, p, p adjusted."""
    plain = one.name.endswith("_rank")
    factor, write = (1.0, "{:.2f}") if plain else (100.0, "{:.1f} %")
    low, high = (factor * end for end in one.paired.ci95)
    return [
        one.name,
        write.format(factor * one.a),
        write.format(factor * one.b),
        f"{factor * one.paired.difference:+.2f}" if plain else f"{factor * one.paired.difference:+.1f}",
        f"{low:+.2f} – {high:+.2f}" if plain else f"{low:+.1f} – {high:+.1f}",
        f"{one.paired.p_value:.4f}",
        f"{one.p_adjusted:.4f}",
    ]


def _percent(value: float | list[float]) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) else ""


def _with_interval(metrics: Mapping[str, float | list[float]], name: str) -> str:
    interval = metrics.get(f"{name}_ci95")
    shown = f" ({_percent(interval[0])} – {_percent(interval[1])})" if isinstance(interval, list) else ""
    return f"{_percent(metrics[name])}{shown}"
