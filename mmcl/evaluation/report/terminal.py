"""`render_table` and `render_confusion`: evaluation metrics and mistaken classes as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mmcl.evaluation.report.embedding_rows import COUNTED, embedding_rows
from mmcl.evaluation.report.retrieval_rows import WAYS, retrieval_rows

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from mmcl.evaluation.zero_shot.evaluator import ZeroShotPrediction

# A matrix of more classes does not fit a terminal; the largest confusions are listed instead.
MATRIX_CLASSES = 12
LISTED_CONFUSIONS = 10

_ZERO_SHOT = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_per_class": "mean per class",
    "precision_macro": "precision, macro",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "roc_auc_macro": "ROC AUC, macro",
    "ece": "calibration error",
}


# What robustness is measured by, and its words.
MEASURES = {
    "zeroshot_top1": "zero-shot top-1",
    "i2t_recall@1": f"{WAYS['i2t']} R@1",
    "t2i_recall@1": f"{WAYS['t2i']} R@1",
}

_COUNTED = {
    "retrieval": ("images", "texts", "skipped"),
    "languages": ("languages", "skipped"),
    "zeroshot": ("images", "classes", "skipped"),
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
    for section in (retrieval_lines, _zero_shot, _multi_label, _foils, _robustness, _of_embeddings):
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


def retrieval_lines(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    """The lines of retrieval: those of `retrieval_rows` that are there."""
    for row in retrieval_rows(metrics):
        for line in _line(metrics, row.key, row.name, chance=row.chance, plain=row.plain):
            spread = metrics.get(f"{row.key}_std")
            yield line._replace(interval=f"± {_percent(spread)}") if isinstance(spread, int | float) else line
    for way, words in {**WAYS, "i2i": "image → image", "t2t": "text → text"}.items():
        count = metrics.get(f"retrieval/{way}_unanswerable")
        if isinstance(count, int | float) and count:
            yield Line(f"{words} queries without an answer, left out", f"{count:,.0f}")


def _zero_shot(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    for key, name in _ZERO_SHOT.items():
        chance = "zeroshot/chance" if key in ("top1", "mean_per_class") else None
        yield from _line(metrics, f"zeroshot/{key}", f"zero-shot {name}", chance=chance)
    yield from _line(metrics, "zeroshot/majority", "zero-shot share of the largest class")
    low, high = metrics.get("zeroshot/template_top1_min"), metrics.get("zeroshot/template_top1_max")
    if isinstance(low, int | float) and isinstance(high, int | float):
        yield Line("zero-shot top-1, one template alone", f"{_percent(low)} to {_percent(high)}")


def _multi_label(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    for key, name in {"map": "mAP", "overlap@1": "overlap@1", "overlap@5": "overlap@5"}.items():
        yield from _line(metrics, f"multilabel/{key}", f"labels {name}", chance=f"multilabel/chance_{key}")


def _foils(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    kinds = [key.removesuffix("_count") for key in metrics if key.startswith("foils/") and key.endswith("_count")]
    for key in [kind for kind in kinds if kind != "foils/negatives"] + ["foils/mean"]:
        yield from _line(metrics, key, f"against one word: {key.partition('/')[2]}", chance="foils/chance")
    yield from _line(metrics, "foils/negatives", "against all hard negatives", chance="foils/negatives_chance")
    yield from _line(metrics, "foils/negatives_pairwise", "against each hard negative", chance="foils/chance")


def _robustness(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    """The sums alone; `render_robustness` shows every condition."""
    for key, words in MEASURES.items():
        name = f"robustness/{key}"
        yield from _line(metrics, f"{name}_clean", f"{words}, unchanged", chance=f"{name}_chance")
        yield from _line(metrics, f"{name}_corruption_mean", f"{words}, images corrupted", chance=f"{name}_chance")
        yield from _line(metrics, f"{name}_relative_drop", f"{words}, share lost to corruption")
        yield from _line(metrics, f"{name}_text_mean", f"{words}, captions rewritten", chance=f"{name}_chance")


def _of_embeddings(metrics: Mapping[str, float | list[float]]) -> Iterator[Line]:
    for row in embedding_rows(metrics):
        yield from _line(metrics, row.key, row.name, chance=row.chance, plain=row.plain)


def _line(
    metrics: Mapping[str, float | list[float]],
    key: str,
    name: str,
    *,
    chance: str | None = None,
    plain: bool = False,
) -> Iterator[Line]:
    """The row of one metric, or nothing where it is not there; ``plain``: no percentage."""
    value = metrics.get(key)
    if not isinstance(value, int | float):
        return
    write = (
        _rank if key.endswith(("median_rank", "mean_rank")) else _fraction if plain or key.endswith("ece") else _percent
    )
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
    return f"{value:,.1f}".removesuffix(".0")


def _caption(metrics: Mapping[str, float | list[float]]) -> str | None:
    counts = []
    for task, items in {**_COUNTED, **COUNTED}.items():
        found = [(item.replace("_", " "), metrics.get(f"{task}/num_{item}")) for item in items]
        shown = [f"{int(count):,} {item}" for item, count in found if isinstance(count, int | float) and count]
        if shown:
            counts.append(f"{task}: {', '.join(shown)}")
    return "; ".join(counts) or None
