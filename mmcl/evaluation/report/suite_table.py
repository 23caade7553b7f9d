"""A suite's results as tables: Markdown, CSV, HTML and JSON, and for the terminal."""

from __future__ import annotations

import csv
import html
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl.errors import ConfigError
from mmcl.evaluation.suite import CellResult, numbers
from mmcl.pages.page import Page

if TYPE_CHECKING:
    from rich.table import Table

# What tables for people show of a task, as patterns; others show their primary metric and what has an interval.
HEADLINES: dict[str, tuple[str, ...]] = {
    "retrieval": tuple(rf"{way}_{name}" for way in ("i2t", "t2i") for name in (r"recall@\d+", "mrr", r"ndcg@\d+")),
    "zeroshot": ("top1", "top5", "mean_per_class", "f1_macro", "ece"),
    "multilabel": ("map", r"overlap@\d+"),
    "probe": ("top1", "mean_per_class", r"top1_\d+shot"),
    "knn": ("top1", "mean_per_class"),
    "clusters": ("nmi", "ari", "accuracy"),
    "geometry": ("alignment", "uniformity", "modality_gap"),
}
MOST_COLUMNS = 10
CSV_HEADER = ("model", "data", "task", "metric", "value", "ci_low", "ci_high", "seconds")

# No fractions, and so not written as per cent; and what is the better the smaller it is.
_PLAIN = re.compile(r"geometry/|/num_|_count$|_rank$|(^|[/_])(ece|brier|nll|loss|seconds|dim)$")
_LOWER = re.compile(r"(^|[/_])(ece|brier|nll|loss|error|drop|rank|gap|alignment|uniformity)$")
_COUNTED = re.compile(r"/num_|_count$|_rank$")
_UNRANKED = re.compile(r"geometry/(?!alignment$|uniformity$)|/num_|_count$|/chance|majority$")


@dataclass(frozen=True)
class Value:
    """A metric as a cell of a table shows it.

    Attributes:
        text: per cent, or a plain number; empty where there is none.
        interval: as ``[low, high]``, or empty.
        best: whether no model of the table has a better one.
    """

    text: str = ""
    interval: str = ""
    best: bool = False

    def __str__(self) -> str:
        return f"{self.text} {self.interval}".strip()

    def __html__(self) -> str:
        text = html.escape(self.text)
        return f"{f'<strong>{text}</strong>' if self.best else text} {html.escape(self.interval)}".strip()


@dataclass(frozen=True)
class SuiteTable:
    """All models on one data set by one task.

    Attributes:
        title: data and task.
        header: ``model``, then metrics.
        rows: one a model, and one for chance and the majority class where metrics give them.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | Value, ...], ...]


def suite_tables(results: Sequence[CellResult]) -> list[SuiteTable]:
    """One table for each data set and task with a result, in the order of the results.

    Args:
        results: of any cells; those without metrics have no row.
    """
    together: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        if result.status == "done":
            together.setdefault((result.cell.data, result.cell.task), []).append(result)
    order = dict.fromkeys((result.cell.data, result.cell.task) for result in results)
    return [_table(data, task, together[data, task]) for data, task in order if (data, task) in together]


def _table(data: str, task: str, results: Sequence[CellResult]) -> SuiteTable:
    values = [numbers(result.metrics) for result in results]
    columns = _columns(results)
    rows: list[tuple[str | Value, ...]] = []
    for result, own in zip(results, values):
        cells = [
            _value(name, own.get(name), _best(name, [one[name][0] for one in values if name in one]))
            for name in columns
        ]
        rows.append((result.cell.model, *cells))
    for word in ("chance", "majority"):
        line = [
            next((_value(name, one[key], None) for one in values for key in _floors(name, word) if key in one), Value())
            for name in columns
        ]
        if any(cell.text for cell in line):
            rows.append((word, *line))
    return SuiteTable(f"{data}: {task}", ("model", *(_short(name, columns) for name in columns)), tuple(rows))


def _columns(results: Sequence[CellResult]) -> list[str]:
    """The metrics that a table shows."""
    found: dict[str, bool] = {}  # name -> whether some model has an interval of it
    for result in results:
        for name, (_, interval) in numbers(result.metrics).items():
            found[name] = found.get(name, False) or interval is not None
    primary = next((result.primary_metric for result in results if result.primary_metric), "")
    prefix = primary.partition("/")[0]
    patterns = [re.compile(f"{prefix}/{pattern}") for pattern in HEADLINES.get(prefix, ())]
    chosen = [name for pattern in patterns for name in found if pattern.fullmatch(name)]
    if chosen:
        return chosen
    leading = [primary] if primary in found else []
    rest = [name for name, has in found.items() if has and name not in leading]
    return (leading + rest or list(found))[:MOST_COLUMNS]


def _floors(name: str, word: str) -> Iterator[str]:
    """Where metrics may say what chance, or always answering the largest class, scores in ``name``."""
    prefix, _, metric = name.rpartition("/")
    way = re.match(r"(i2t_|t2i_)?", metric)[0]
    if word == "chance":
        yield f"{prefix}/{way}chance_{metric.removeprefix(way)}"
    # One line for all top-1 of a task; retrieval has chance lines of its own.
    tops = r"(.*_)?top1(_\d+shot)?" + ("|mean_per_class" if word == "chance" else "|accuracy")
    if prefix == "foils" or re.fullmatch(tops, metric):
        yield f"{prefix}/{word}"


def _best(name: str, values: Sequence[float]) -> float | None:
    """The best of at least two values that differ; None where none is better than another."""
    if len(set(values)) < 2 or _UNRANKED.search(name):
        return None
    return min(values) if _LOWER.search(name) else max(values)


def _value(name: str, found: tuple[float, list[float] | None] | None, best: float | None) -> Value:
    if found is None:
        return Value()
    value, interval = found
    shown = "" if interval is None else f"[{_write(name, interval[0])}, {_write(name, interval[1])}]"
    return Value(_write(name, value), shown, best is not None and value == best)


def is_fraction(name: str) -> bool:
    """Whether a metric is a fraction, which tables write as per cent."""
    return _PLAIN.search(name) is None


def _write(name: str, value: float) -> str:
    if is_fraction(name):
        return f"{100 * value:.1f}"
    return f"{value:g}" if _COUNTED.search(name) else f"{value:.3f}"


def _short(name: str, columns: Sequence[str]) -> str:
    """A metric's name without its task where all share it."""
    prefix = columns[0].partition("/")[0]
    return name.partition("/")[2] if all(one.startswith(f"{prefix}/") for one in columns) else name


def without_metrics(results: Sequence[CellResult]) -> list[tuple[str, str, str, str, str]]:
    """(model, data, task, status, why) of every cell that has no metrics."""
    return [
        (one.cell.model, one.cell.data, one.cell.task, one.status, one.message)
        for one in results
        if one.status != "done"
    ]


LEGEND = (
    "Fractions in per cent, 95 % intervals in brackets, the best of each column bold. Every metric is in results.csv."
)


def to_markdown(results: Sequence[CellResult], *, title: str = "Results") -> str:
    """The tables as Markdown (GitHub's), with a list of the cells without metrics."""
    parts = [f"# {_escape(title)}", LEGEND]
    for table in suite_tables(results):
        parts += [f"## {_escape(table.title)}", _markdown_table(table.header, table.rows)]
    if rest := without_metrics(results):
        parts += ["## Cells without metrics", _markdown_table(("model", "data", "task", "status", "why"), rest)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str | Value]]) -> str:
    ruler = ["---", *("---:" if isinstance(cell, Value) else "---" for cell in rows[0][1:])]
    lines = [[_escape(name) for name in header], ruler, *([_markdown_cell(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: str | Value) -> str:
    if isinstance(cell, str):
        return _escape(cell)
    return f"**{cell.text}** {cell.interval}".strip() if cell.best else str(cell) or "–"


def _escape(text: str) -> str:
    """Text as Markdown shows it: no markup, one line."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def to_csv(results: Sequence[CellResult]) -> str:
    """Every metric of every cell, one a line, as fractions and with their whole precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for result in results:
        names = (result.cell.model, result.cell.data, result.cell.task)
        for metric, (value, interval) in numbers(result.metrics).items():
            writer.writerow([*names, metric, value, *(interval or ("", "")), result.seconds])
    return text.getvalue()


def to_page(results: Sequence[CellResult], *, title: str = "Results") -> Page:
    """The tables as a page for the browser."""
    page = Page(title)
    page.paragraph(LEGEND)
    for table in suite_tables(results):
        page.heading(table.title)
        page.table(table.header, table.rows)
    if rest := without_metrics(results):
        page.heading("Cells without metrics")
        page.table(("model", "data", "task", "status", "why"), rest)
    return page


def to_json(results: Sequence[CellResult]) -> list[dict[str, object]]:
    """Everything that is known of every cell."""
    cells = []
    for result in results:
        held = asdict(result)
        cell = held.pop("cell")
        cells.append({"model": cell["model"], "data": cell["data"], "task": cell["task"], **held, "key": cell["key"]})
    return cells


def to_terminal(table: SuiteTable) -> Table:
    """One table for ``rich.print``: metrics down, models across, since terminals are narrow."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(table.title))
    shown.add_column("metric")
    for row in table.rows:
        shown.add_column(Text(str(row[0])), justify="right", overflow="fold")
    for place, name in enumerate(table.header[1:], 1):
        cells = [row[place] for row in table.rows]
        shown.add_row(
            Text(name), *(Text(str(one), style="bold" if isinstance(one, Value) and one.best else "") for one in cells)
        )
    return shown


def write_tables(results: Sequence[CellResult], folder: str | Path, *, title: str = "Results") -> list[Path]:
    """Write ``results.md``, ``.csv``, ``.html`` and ``.json``, each whole or not at all.

    Args:
        results: of any cells.
        folder: where they go; it exists.
        title: above the tables.

    Returns:
        The files.

    Raises:
        ConfigError: one cannot be written.
    """
    folder = Path(folder)
    texts = {
        "results.md": to_markdown(results, title=title),
        "results.csv": to_csv(results),
        "results.html": to_page(results, title=title).html(),
        "results.json": json.dumps(to_json(results), indent=1, ensure_ascii=False) + "\n",
    }
    for name, text in texts.items():
        beside = folder / f".{name}.part"
        try:
            beside.write_text(text, encoding="utf-8", newline="")
            os.replace(beside, folder / name)
        except OSError as error:
            raise ConfigError(f"{folder / name} cannot be written: {error.strerror or error}") from error
    return [folder / name for name in texts]
