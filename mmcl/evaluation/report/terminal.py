"""`render_table` and `render_confusion`: evaluation metrics and mistaken classes as tables for the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from mmcl.evaluation.zero_shot import ZeroShotPrediction

# A matrix of more classes does not fit a terminal; the largest confusions are listed instead.
MATRIX_CLASSES = 12
LISTED_CONFUSIONS = 10

_WAYS = {"i2t": "image → text", "t2i": "text → image"}
_RECALL = re.compile(r"retrieval/i2t_recall@(\d+)")
_SUMMARIES = {"mrr": "MRR", "ndcg@10": "nDCG@10", "map@10": "mAP@10", "median_rank": "median rank"}
_ZERO_SHOT = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class": "mean per class",
    "f1_macro": "F1, macro",
    "roc_auc_macro": "ROC AUC, macro",
    "ece": "calibration error",
}


class Line(NamedTuple):
    """One row of the table: a metric's value, its interval and its chance line, already written out."""

    name: str
    value: str
    interval: str = ""
    chance: str = ""


def render_table(metrics: Mapping[str, float | list[float]], *, title: str | None = None) -> Table:
    """A table of R@k both ways, zero-shot and foil metrics, each with its 95 % interval and its chance line.

    Args:
        metrics: from any evaluators together; what is not there has no row, names it does not know are left out.
        title: above the table.

    Returns:
        A table; ``rich.print`` shows it. Without any known metric it has no rows.

    Example:
        >>> render_table({"zeroshot/top1": 0.5, "zeroshot/chance": 0.1}).row_count
        1
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=None if title is None else escape(title), caption=_caption(metrics))
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_column("chance", justify="right")
    for section in (_retrieval, _zero_shot, _foils):
        for line in section(metrics):
            table.add_row(*line)
        table.add_section()
    return table


def render_confusion(prediction: ZeroShotPrediction) -> Table:
    """Which classes a zero-shot classifier takes for which.

    Args:
        prediction: over c classes.

    Returns:
        For c <= 12 the whole confusion matrix in images, a row a true class, a column a predicted one, and how much of
        each class is right. For more classes the ten largest confusions, in images and as a share of the true class;
        without any mistake it has no rows.

    Example:
        >>> render_confusion(evaluator.predict(embedder)).row_count       # doctest: +SKIP
        9
    """
    counts = prediction.confusion()  # (c, c)
    few = len(prediction.classes) <= MATRIX_CLASSES
    return _confusion_matrix(counts, prediction.classes) if few else _largest_confusions(counts, prediction.classes)


def _confusion_matrix(counts: Tensor, classes: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="confusion: images of each true class (rows) by predicted class (columns)")
    table.add_column("true class")
    for index in range(len(classes)):
        table.add_column(str(index + 1), justify="right")
    table.add_column("right", justify="right")
    for index, (name, row) in enumerate(zip(classes, counts.tolist())):
        cells = [str(count) if count else "·" for count in row]
        right = _percent(row[index] / sum(row)) if sum(row) else ""
        table.add_row(Text(f"{index + 1} {name}"), *cells, right)
    return table


def _largest_confusions(counts: Tensor, classes: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    mistaken = counts.clone().fill_diagonal_(0)
    values, places = mistaken.flatten().sort(descending=True, stable=True)
    totals = counts.sum(1).tolist()
    title = f"confusion: the largest of {int(mistaken.sum()):,} mistakes over {len(classes)} classes"
    table = Table("true class", "taken for", title=title)
    table.add_column("images", justify="right")
    table.add_column("of the class", justify="right")
    for count, place in zip(values[:LISTED_CONFUSIONS].tolist(), places[:LISTED_CONFUSIONS].tolist()):
        if count:
            true, predicted = divmod(place, len(classes))
            table.add_row(Text(classes[true]), Text(classes[predicted]), str(count), _percent(count / totals[true]))
    return table


def _retrieval(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    ks = sorted(int(match[1]) for match in map(_RECALL.fullmatch, metrics) if match)
    for way, words in _WAYS.items():
        for k in ks:
            chance = f"retrieval/{way}_chance_recall@{k}"
            yield from _line(metrics, f"retrieval/{way}_recall@{k}", f"{words} R@{k}", chance=chance)
        reader = f"retrieval/appearance_reader_{way}_recall@1"
        yield from _line(metrics, reader, f"{words} R@1, appearance only")
        for key, name in _SUMMARIES.items():
            yield from _line(metrics, f"retrieval/{way}_{key}", f"{words} {name}")


def _zero_shot(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    for key, name in _ZERO_SHOT.items():
        chance = "zeroshot/chance" if key in ("top1", "mean_per_class") else None
        yield from _line(metrics, f"zeroshot/{key}", f"zero-shot {name}", chance=chance)
    yield from _line(metrics, "zeroshot/majority", "zero-shot share of the largest class")


def _foils(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    kinds = [key.removesuffix("_count") for key in metrics if key.startswith("foils/") and key.endswith("_count")]
    for key in [*kinds, "foils/mean"]:
        yield from _line(metrics, key, f"against one word: {key.partition('/')[2]}", chance="foils/chance")


def _line(
    metrics: Mapping[str, float | list[float]], key: str, name: str, *, chance: str | None = None
) -> Iterator[Line]:
    """The row of one metric, or nothing where it is not there."""
    value = metrics.get(key)
    if not isinstance(value, int | float):
        return
    write = _rank if key.endswith("median_rank") else _fraction if key.endswith("ece") else _percent
    interval, by_chance = metrics.get(f"{key}_ci95"), metrics.get(chance) if chance else None
    yield Line(
        name,
        write(value),
        f"{write(interval[0])} – {write(interval[1])}" if isinstance(interval, list) else "",
        write(by_chance) if isinstance(by_chance, int | float) else "",
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _fraction(value: float) -> str:
    return f"{value:.3f}"


def _rank(value: float) -> str:
    return f"{value:g}"


def _caption(metrics: Mapping[str, float | list[float]]) -> str | None:
    counts = []
    for task, items in (("retrieval", ("images", "texts", "skipped")), ("zeroshot", ("images", "classes", "skipped"))):
        found = [(item, metrics.get(f"{task}/num_{item}")) for item in items]
        shown = [f"{int(count):,} {item}" for item, count in found if isinstance(count, int | float) and count]
        if shown:
            counts.append(f"{task}: {', '.join(shown)}")
    return "; ".join(counts) or None
