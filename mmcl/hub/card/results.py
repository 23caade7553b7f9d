"""The results section: a table for each split and task, with intervals and chance, and one against baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmcl.hub.card.baselines import OWN, Comparison
from mmcl.hub.card.markdown import join, percent, table
from mmcl.hub.card.source import CardSource

HEADLINES = (
    ("retrieval/t2i_recall@1", "retrieval/t2i_chance_recall@1", "finds one of its images first for {} of the captions"),
    ("zeroshot/top1", "zeroshot/chance", "names the class of {} of the images without training on classes"),
    ("retrieval/i2t_recall@1", "retrieval/i2t_chance_recall@1", "finds one of its captions first for {} of the images"),
)
# Title -> what the names of its metrics begin with.
_SECTIONS = {
    "Retrieval": ("retrieval/",),
    "Zero-shot classification": ("zeroshot/",),
    "Further measurements": ("foils/", "multilabel/", "probe/", "knn/", "clusters/", "geometry/", "robustness/"),
}
# Rows of the table against baselines.
COMPARED = {
    "retrieval/i2t_recall@1": "image → text R@1",
    "retrieval/i2t_recall@5": "image → text R@5",
    "retrieval/i2t_recall@10": "image → text R@10",
    "retrieval/t2i_recall@1": "text → image R@1",
    "retrieval/t2i_recall@5": "text → image R@5",
    "retrieval/t2i_recall@10": "text → image R@10",
    "zeroshot/top1": "zero-shot top-1",
    "zeroshot/top5": "zero-shot top-5",
    "zeroshot/mean_per_class": "zero-shot mean per class",
    "zeroshot/f1_macro": "zero-shot F1, macro",
}


def headline(metrics: Mapping[str, Any]) -> str:
    """One figure with its interval and its chance line, as the end of a sentence; empty where there is none."""
    for name, chance, words in HEADLINES:
        value, by_chance = metrics.get(name), metrics.get(chance)
        if isinstance(value, (int, float)) and isinstance(by_chance, (int, float)):
            shown = f"**{percent(value)}**{_interval(metrics, name)}"
            return f"{words.format(shown)}; chance is {percent(by_chance)}"
    return ""


def results_section(source: CardSource, data_name: str, comparison: Comparison) -> str:
    """Every split's tables, the largest part of a card; a sentence where nothing was judged."""
    if not source.evaluation:
        why = "No evaluation lies beside this model." if not source.recipe else "The run judged no test split."
        return f"{why} `mmcl eval retrieval` and `mmcl eval zeroshot` measure it."
    blocks = ["Fractions in percent, with 95 % intervals (a bootstrap over groups) and what chance scores."]
    several = len(source.evaluation) > 1
    for split, metrics in source.evaluation.items():
        for title, prefixes in _SECTIONS.items():
            own = {name: value for name, value in metrics.items() if name.startswith(prefixes)}
            body = _metric_table(own)
            if body:
                blocks += [f"### {title}" + (f": {split}" if several else ""), _counts(own, data_name, split), body]
    rows = _compared(comparison)
    if rows:
        blocks += [f"### Against baselines: {comparison.split}", table(["figure", *comparison.columns], rows)]
        blocks += ["\n".join(f"- {note}" for note in comparison.notes)]
    blocks.append("Every metric, those without a row here too, is in the `model-index` above this text.")
    return join(blocks)


def _metric_table(metrics: Mapping[str, Any]) -> str:
    """What `mmcl eval` shows of them."""
    from mmcl.evaluation import render_table

    columns = [list(column.cells) for column in render_table(metrics).columns]
    return table(["figure", "value", "95 % interval", "chance"], list(zip(*columns)))


def _counts(metrics: Mapping[str, Any], data_name: str, split: str) -> str:
    """What was judged: images, captions, classes, and what was left out."""
    task = next(iter(metrics)).partition("/")[0]
    named = {"images": "images", "texts": "distinct captions", "classes": "classes", "skipped": "unreadable images"}
    parts = []
    for key, words in named.items():
        value = metrics.get(f"{task}/num_{key}")
        if isinstance(value, (int, float)) and (value or key != "skipped"):
            parts.append(f"{value:,.0f} {words}")
    return f"{', '.join(parts)} of {data_name}, split {split}." if parts else ""


def _compared(comparison: Comparison) -> list[list[str]]:
    own = comparison.columns.get(OWN, {})
    rows = []
    for name, words in COMPARED.items():
        if isinstance(own.get(name), (int, float)):
            cells = [column.get(name) for column in comparison.columns.values()]
            written = [percent(cell) if isinstance(cell, (int, float)) else "" for cell in cells]
            written[0] = f"**{written[0]}**{_interval(own, name)}"
            rows.append([words, *written])
    return rows if len(comparison.columns) > 1 else []


def _interval(metrics: Mapping[str, Any], name: str) -> str:
    interval = metrics.get(f"{name}_ci95")
    if not isinstance(interval, (list, tuple)) or len(interval) != 2 or None in interval:
        return ""
    return f" ({100 * interval[0]:.1f} – {100 * interval[1]:.1f})"
