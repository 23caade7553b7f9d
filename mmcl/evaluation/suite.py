"""A suite's cells: each model on each data set by each task, computed once, kept in a file, shared among processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from mmcl.errors import ConfigError, MmclError
from mmcl.evaluation.evaluator import Evaluator, Metrics
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.embedder import Embedder

log = get_logger(__name__)

# left out: the data lack what the task needs. missing: not computed yet.
Status = Literal["done", "failed", "left out", "missing"]


@dataclass(frozen=True)
class Cell:
    """One model on one data set by one task.

    Attributes:
        model, data, task: what tables call them.
        key: all that the metrics depend on, as JSON has it; a result under another key is out of date.
        left_out: why there is nothing to compute; None where there is.
    """

    model: str
    data: str
    task: str
    key: Mapping[str, Any] = field(default_factory=dict, hash=False)
    left_out: str | None = None

    @property
    def file_name(self) -> str:
        """Readable, and different for different names."""
        names = (self.model, self.data, self.task)
        readable = "--".join(re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")[-40:] for name in names)
        return f"{readable}-{hashlib.sha256(chr(31).join(names).encode()).hexdigest()[:8]}.json"

    def __str__(self) -> str:
        return f"{self.model} on {self.data}: {self.task}"


@dataclass(frozen=True)
class CellResult:
    """What came of a cell.

    Attributes:
        cell: whose result it is.
        status: see ``Status``.
        metrics: names to a number, or to [low, high] for ``*_ci95``; what is not finite is None.
        primary_metric: the one that matters most; empty where there are no metrics.
        message: why a cell failed or was left out.
        seconds: the time it took; the first cell of a model and data set loads and embeds for the others too.
        when: the end, as ISO 8601 in UTC.
    """

    cell: Cell
    status: Status
    metrics: Mapping[str, Any] = field(default_factory=dict)
    primary_metric: str = ""
    message: str = ""
    seconds: float = 0.0
    when: str = ""


@dataclass(frozen=True)
class Share:
    """The part of a suite that one process computes: every ``count``-th pair of model and data, from the ``index``-th.

    Raises:
        ConfigError: ``index`` is not in [0, count).
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"share {self.index + 1}/{self.count}: want a part from 1 to the number of parts, such as 1/4"
            )

    def of(self, cells: Sequence[Cell]) -> list[Cell]:
        """Its cells; those of one model and data set stay together, so that they are embedded once."""
        groups = list(dict.fromkeys((cell.model, cell.data) for cell in cells))
        own = set(groups[self.index :: self.count])
        return [cell for cell in cells if (cell.model, cell.data) in own]


class Watch(Protocol):
    """Is told how a suite gets on."""

    def found(self, *, done: int, total: int) -> None:
        """``done`` of ``total`` cells were computed before."""
        ...

    def begins(self, cell: Cell, *, number: int, total: int) -> None:
        """The ``number``-th of ``total`` cells that are computed now, from 1."""
        ...

    def embedding(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` images or texts are embedded."""
        ...

    def ended(self, result: CellResult, *, number: int, total: int) -> None:
        """It is done, or has failed."""
        ...


class CellStore:
    """Results in a folder, one JSON file a cell, each written whole or not at all.

    Args:
        folder: created where it is missing.

    Raises:
        ConfigError: it cannot be created or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be created: {error.strerror or error}; name another") from error
        if not os.access(self.folder, os.W_OK):
            raise ConfigError(f"{self.folder} cannot be written (no permission); name another folder")

    def read(self, cell: Cell) -> CellResult | None:
        """The result of a cell; None where there is none, its key is another, or the file is damaged."""
        path = self.folder / cell.file_name
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["key"] != _as_json(cell.key):
                return None
            own = {name: held[name] for name in ("metrics", "primary_metric", "message", "seconds", "when")}
            if held["status"] not in ("done", "failed") or not isinstance(own["metrics"], dict):
                raise KeyError("status")
            return CellResult(cell, held["status"], **own)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s: %s); the cell is computed again", path, type(error).__name__, error)
            return None

    def write(self, result: CellResult) -> None:
        """Keep a result.

        Raises:
            ConfigError: it cannot be written.
        """
        path = self.folder / result.cell.file_name
        held = asdict(result)
        cell = held.pop("cell")
        held = {"model": cell["model"], "data": cell["data"], "task": cell["task"], **held, "key": cell["key"]}
        beside = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            beside.write_text(json.dumps(_as_json(held), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(beside, path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def _as_json(value: Any) -> Any:
    """What JSON makes of a value: tuples are lists, keys strings, and what is not finite is null."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def collect(cells: Sequence[Cell], store: CellStore) -> list[CellResult]:
    """The result of every cell, in order; one without a result is ``missing``."""
    results = []
    for cell in cells:
        if cell.left_out is not None:
            results.append(CellResult(cell, "left out", message=cell.left_out))
        else:
            results.append(store.read(cell) or CellResult(cell, "missing", message="not computed yet"))
    return results


def run_cells(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    embedder: Callable[[Cell], Embedder],
    evaluator: Callable[[Cell], Evaluator],
    share: Share | None = None,
    force: bool = False,
    watch: Watch | None = None,
) -> None:
    """Compute the cells of a share that have no result under their key, and keep each as soon as it is there.

    A cell that failed before is tried again. One that fails now is kept with its message, and the others go on.

    Args:
        cells: of the whole suite.
        store: where results are and go.
        embedder: the model of a cell, ready for its data; asked for once for the cells of one model and data set.
        evaluator: the evaluator of a cell.
        share: the part to compute; default all.
        force: compute what is already there too.
        watch: told how it gets on.

    Raises:
        ConfigError: a result cannot be written.
    """
    own = [cell for cell in (share or Share()).of(cells) if cell.left_out is None]
    before = {} if force else {cell: store.read(cell) for cell in own}
    done = {cell for cell, result in before.items() if result is not None and result.status == "done"}
    if watch is not None:
        watch.found(done=len(done), total=len(own))
    todo = [cell for cell in own if cell not in done]
    group, model = None, None
    for number, cell in enumerate(todo, 1):
        if (cell.model, cell.data) != group:
            group, model = (cell.model, cell.data), None  # what the last one has embedded is let go
        if watch is not None:
            watch.begins(cell, number=number, total=len(todo))
        began = time.perf_counter()
        try:
            model = embedder(cell) if model is None else model
            judge = evaluator(cell)
            metrics = judge(model)
            result = CellResult(cell, "done", _as_json(metrics), judge.primary_metric)
        except Exception as error:  # whatever it is: a night's other cells are worth more than a stop here
            log.info("%s failed", cell, exc_info=True)
            result = CellResult(cell, "failed", message=_one_line(error))
        result = _timed(result, time.perf_counter() - began)
        store.write(result)
        if watch is not None:
            watch.ended(result, number=number, total=len(todo))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, MmclError) and text else f"{type(error).__name__}: {text}"


def _timed(result: CellResult, seconds: float) -> CellResult:
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return CellResult(
        result.cell, result.status, result.metrics, result.primary_metric, result.message, round(seconds, 3), when
    )


def numbers(metrics: Metrics) -> dict[str, tuple[float, list[float] | None]]:
    """Every metric that is a number, with its interval where it has one.

    Example:
        >>> numbers({"a/b": 0.5, "a/b_ci95": [0.4, 0.6], "a/names": ["x"]})
        {'a/b': (0.5, [0.4, 0.6])}
    """
    found = {}
    for name, value in metrics.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            interval = metrics.get(f"{name}_ci95")
            pair = isinstance(interval, list) and len(interval) == 2 and None not in interval
            found[name] = (float(value), interval if pair else None)
    return found
