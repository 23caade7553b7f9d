"""Tables of a classifier for the terminal: its figures beside those of baselines, and its classes one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from mmcl.evaluation.zero_shot.class_metrics import ClassLine

# What baselines are called, in the order of the columns.
BASELINES = {
    "chance": "chance",
    "majority": "largest class",
    "random_weights": "random weights",
    "raw_linear": "raw pixels, linear",
}
FIGURES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class": "mean per class",
    "precision_macro": "precision, macro",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "roc_auc_macro": "ROC AUC, macro",
    "ece": "calibration error",
    "map": "mAP",
    "overlap@1": "overlap@1",
    "overlap@5": "overlap@5",
}
# Classes beyond this many are left to the page and to --json.
LISTED_CLASSES = 20


def baseline_rows(metrics: Mapping[str, object], task: str) -> tuple[list[str], list[list[str]]]:
    """A header and rows: each figure of a task, of the model and of every baseline that is there.

    Args:
        metrics: ``<task>/<figure>`` and ``<task>/<baseline>_<figure>`` to values.
        task: ``zeroshot`` or ``multilabel``.

    Example:
        >>> baseline_rows({"zeroshot/top1": 0.5, "zeroshot/chance_top1": 0.25}, "zeroshot")
        (['figure', 'this model', 'chance'], [['top-1', '50.0 %', '25.0 %']])
    """
    there = [key for key in BASELINES if any(f"{task}/{key}_{figure}" in metrics for figure in FIGURES)]
    rows = []
    for figure, name in FIGURES.items():
        if f"{task}/{figure}" in metrics:
            keys = [f"{task}/{figure}", *(f"{task}/{key}_{figure}" for key in there)]
            rows.append([name, *(written(metrics.get(key), figure) for key in keys)])
    return ["figure", "this model", *(BASELINES[key] for key in there)], rows


def written(value: object, figure: str = "") -> str:
    """A fraction as a percentage, a calibration error as a number, what is missing as nothing."""
    if not isinstance(value, int | float):
        return ""
    return f"{value:.3f}" if figure == "ece" else f"{100 * value:.1f} %"


def render_baselines(metrics: Mapping[str, object], *, task: str = "zeroshot") -> Table:
    """Every figure of a classifier beside what it is without a trained model; without baselines it has no rows.

    Args:
        metrics: of the task, with those of its baselines.
        task: ``zeroshot`` or ``multilabel``.
    """
    from rich.table import Table

    header, rows = baseline_rows(metrics, task)
    table = Table(title="beside what it takes no trained model for")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    if len(header) > 2:
        for row in rows:
            table.add_row(*row)
    return table


def class_rows(lines: Sequence[ClassLine]) -> tuple[list[str], list[list[str]]]:
    """A header and rows of a table of classes, in the order given."""
    header = ["class", "images", "predicted", "precision", "recall", "F1", "ROC AUC"]
    rows = [
        [
            one.label,
            f"{one.support:,}",
            f"{one.predicted:,}",
            *(written(value) for value in (one.precision, one.recall, one.f1, one.roc_auc)),
        ]
        for one in lines
    ]
    return header, rows


def render_classes(lines: Sequence[ClassLine]) -> Table:
    """Precision, recall, F1 and ROC area of each class, the lowest F1 first; at most ``LISTED_CLASSES`` rows.

    Args:
        lines: of `class_table`. Classes without an image stand last.
    """
    from rich.table import Table
    from rich.text import Text

    ordered = sorted(lines, key=lambda one: (one.f1 is None, one.f1 or 0.0))
    header, rows = class_rows(ordered[:LISTED_CLASSES])
    few = len(lines) <= LISTED_CLASSES
    table = Table(title="classes" if few else f"the {LISTED_CLASSES} classes of {len(lines):,} with the lowest F1")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for label, *cells in rows:
        table.add_row(Text(label), *cells)
    return table
