"""A suite's cells: computed once, resumed, shared, and kept whole, on judges that count how often they are asked."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.suite import Cell, CellResult, CellStore, Share, collect, numbers, run_cells

MODELS, DATA, TASKS = ("m1", "m2"), ("d1", "d2", "d3"), ("retrieval", "zeroshot")


def make_cells(version: Callable[[str], Any] = lambda name: 1) -> list[Cell]:
    """All cells; ``version`` of a name is part of the key of every cell that has the name."""
    return [
        Cell(model, data, task, {"names": [[name, version(name)] for name in (model, data, task)]})
        for model in MODELS
        for data in DATA
        for task in TASKS
    ]


class Judge:
    """Stands for the evaluator of a cell: its metrics follow from the names, and every call is counted."""

    primary_metric = "made/score"

    def __init__(self, cell: Cell, bench: Bench) -> None:
        self.cell, self.bench = cell, bench

    def __call__(self, embedder: Any) -> dict[str, Any]:
        self.bench.judged[self.cell] += 1
        if self.cell in self.bench.failing:
            raise self.bench.failing[self.cell]
        assert embedder == (self.cell.model, self.cell.data)
        score = sum(map(ord, str(self.cell))) % 97 / 97
        return {"made/score": score, "made/score_ci95": [score / 2, (1 + score) / 2]}


class Bench:
    """What ``run_cells`` is handed, with counts of what it asks for."""

    def __init__(self) -> None:
        self.judged: Counter[Cell] = Counter()
        self.opened: list[tuple[str, str]] = []
        self.failing: dict[Cell, BaseException] = {}

    def run(self, cells: list[Cell], folder: Path, **options: Any) -> list[CellResult]:
        store = CellStore(folder)
        run_cells(cells, store, embedder=self.open, evaluator=lambda cell: Judge(cell, self), **options)
        return collect(cells, store)

    def open(self, cell: Cell) -> Any:
        self.opened.append((cell.model, cell.data))
        return cell.model, cell.data


class Diary:
    """A watch that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def found(self, *, done: int, total: int) -> None:
        self.told.append(("found", done, total))

    def begins(self, cell: Cell, *, number: int, total: int) -> None:
        self.told.append(("begins", str(cell), number, total))

    def embedding(self, what: str, done: int, total: int) -> None:
        self.told.append(("embedding", what, done, total))

    def ended(self, result: CellResult, *, number: int, total: int) -> None:
        self.told.append(("ended", result.status, number, total))


def without_clock(results: list[CellResult]) -> list[tuple[Any, ...]]:
    return [(one.cell, one.status, dict(one.metrics), one.primary_metric, one.message) for one in results]


def test_each_cell_is_computed_once_and_a_model_is_asked_for_once_a_data_set(tmp_path: Path) -> None:
    cells, bench = make_cells(), Bench()
    results = bench.run(cells, tmp_path)
    assert [one.status for one in results] == ["done"] * 12
    assert bench.judged == Counter(cells)
    assert bench.opened == [(model, data) for model in MODELS for data in DATA]
    assert len({json.dumps(dict(one.metrics)) for one in results}) > 1  # the metrics are the cells' own
    assert all(one.when.endswith("+00:00") and one.seconds >= 0 for one in results)


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    first = Bench().run(make_cells(), tmp_path)
    again, diary = Bench(), Diary()
    assert again.run(make_cells(), tmp_path, watch=diary) == first  # clock and all
    assert not again.judged
    assert not again.opened
    assert diary.told == [("found", 12, 12)]
    forced = Bench()
    assert without_clock(forced.run(make_cells(), tmp_path, force=True)) == without_clock(first)
    assert forced.judged == Counter(make_cells())


@pytest.mark.parametrize(("changed", "times"), [("m1", 6), ("d2", 4), ("zeroshot", 6), ("nothing", 0)])
def test_what_changed_is_computed_again_and_nothing_else(changed: str, times: int, tmp_path: Path) -> None:
    Bench().run(make_cells(), tmp_path)
    cells, bench = make_cells(lambda name: 2 if name == changed else 1), Bench()
    missing = [one.cell for one in collect(cells, CellStore(tmp_path)) if one.status == "missing"]
    assert len(missing) == times  # what is out of date is not shown
    results = bench.run(cells, tmp_path)
    assert set(bench.judged) == {cell for cell in cells if changed in (cell.model, cell.data, cell.task)}
    assert sum(bench.judged.values()) == times
    assert [one.status for one in results] == ["done"] * 12


def test_a_key_may_hold_what_json_writes_otherwise(tmp_path: Path) -> None:
    cell = Cell("m", "d", "t", {"ks": (1, 5), "c": {1: float("inf")}, "path": Path("x")})
    bench = Bench()
    bench.run([cell], tmp_path)
    bench.run([cell], tmp_path)
    assert bench.judged[cell] == 1


def test_a_cell_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    cells, bench = make_cells(), Bench()
    bench.failing = {cells[1]: DataError("no image\nis readable"), cells[4]: ZeroDivisionError("division by zero")}
    results = bench.run(cells, tmp_path)
    assert {one.cell: one.message for one in results if one.status == "failed"} == {
        cells[1]: "no image is readable",
        cells[4]: "ZeroDivisionError: division by zero",
    }
    assert sum(one.status == "done" for one in results) == 10
    again = Bench()  # what hindered them may be gone
    assert all(one.status == "done" for one in again.run(cells, tmp_path))
    assert set(again.judged) == {cells[1], cells[4]}


def test_a_model_that_does_not_load_fails_its_cells_alone(tmp_path: Path) -> None:
    cells = make_cells()

    def embedder(cell: Cell) -> Any:
        if cell.model == "m1":
            raise ConfigError("there is no m1")
        return cell.model, cell.data

    store, bench = CellStore(tmp_path), Bench()
    run_cells(cells, store, embedder=embedder, evaluator=lambda cell: Judge(cell, bench))
    told = {(one.cell.model, one.status, one.message) for one in collect(cells, store)}
    assert told == {("m1", "failed", "there is no m1"), ("m2", "done", "")}


def test_interrupted_is_uninterrupted(tmp_path: Path) -> None:
    whole = Bench().run(make_cells(), tmp_path / "whole")
    cells, bench = make_cells(), Bench()
    bench.failing = {cells[5]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        bench.run(cells, tmp_path / "broken")
    assert [one.status for one in collect(cells, CellStore(tmp_path / "broken"))] == ["done"] * 5 + ["missing"] * 7
    rest = Bench()
    assert without_clock(rest.run(cells, tmp_path / "broken")) == without_clock(whole)
    assert set(rest.judged) == set(cells[5:])
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "broken")]
    assert names[0] == names[1]  # no half-written file is left over


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "half": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1, 2]",
    "no metrics": lambda text: json.dumps({**json.loads(text), "metrics": None}),
    "no status": lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "status"}),
    "another status": lambda text: json.dumps({**json.loads(text), "status": "fine"}),
    "nothing": lambda text: text,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_computed_again(damage: str, tmp_path: Path) -> None:
    cells = make_cells()
    first = Bench().run(cells, tmp_path)
    path = tmp_path / cells[3].file_name
    path.write_text(DAMAGES[damage](path.read_text()))
    again = Bench()
    assert without_clock(again.run(cells, tmp_path)) == without_clock(first)
    assert set(again.judged) == (set() if damage == "nothing" else {cells[3]})


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_shares_are_all_cells_once_and_keep_a_model_and_its_data_together(count: int, tmp_path: Path) -> None:
    cells, bench = make_cells(), Bench()
    shares = [Share(index, count) for index in range(count)]
    parts = [share.of(cells) for share in shares]
    assert Counter(cell for part in parts for cell in part) == Counter(cells)
    groups = [{(cell.model, cell.data) for cell in part} for part in parts]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert max(map(len, groups)) - min(map(len, groups)) <= 1
    for share in shares:
        results = bench.run(cells, tmp_path / "shared", share=share)
    assert bench.judged == Counter(cells)
    assert without_clock(results) == without_clock(Bench().run(cells, tmp_path / "whole"))


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_is_none(index: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"share {index + 1}/{count}: want a part from 1"):
        Share(index, count)


def test_what_the_data_do_not_allow_is_not_computed(tmp_path: Path) -> None:
    cells = [Cell("m", "d", "retrieval"), Cell("m", "d", "zeroshot", left_out="no label column")]
    bench = Bench()
    results = bench.run(cells, tmp_path)
    assert [(one.status, one.message) for one in results] == [("done", ""), ("left out", "no label column")]
    assert set(bench.judged) == {cells[0]}
    assert bench.run([], tmp_path) == []


def test_it_tells_how_it_gets_on(tmp_path: Path) -> None:
    cells, bench, diary = make_cells()[:3], Bench(), Diary()
    bench.run(cells[:1], tmp_path)
    bench.failing = {cells[2]: DataError("no")}
    bench.run(cells, tmp_path, watch=diary)
    assert diary.told == [
        ("found", 1, 3),
        ("begins", "m1 on d1: zeroshot", 1, 2),
        ("ended", "done", 1, 2),
        ("begins", "m1 on d2: retrieval", 2, 2),
        ("ended", "failed", 2, 2),
    ]


def test_file_names_are_plain_and_differ_where_names_do() -> None:
    names = ["a/b", "a_b", "../..", "x" * 300, "shapes?test=4:test", "日本", "日" * 100, ""]
    files = [Cell(model, data, "t").file_name for model in names for data in names]
    assert len(set(files)) == len(files)
    assert all("/" not in name and not name.startswith(".") and len(name.encode()) < 255 for name in files)
    assert Cell("runs/emoji", "d", "t").file_name.startswith("runs_emoji--d--t-")


def test_numbers_that_are_none_are_kept_as_null(tmp_path: Path) -> None:
    cell = Cell("m", "d", "t")
    store = CellStore(tmp_path)
    metrics = {"a/nan": math.nan, "a/b": 0.5, "a/b_ci95": (0.25, math.inf), "a/c": 0.25, "a/c_ci95": [0.1, 0.3]}
    run_cells([cell], store, embedder=lambda cell: None, evaluator=lambda cell: _Constant(metrics))
    read = store.read(cell)
    assert read is not None
    assert dict(read.metrics) == {
        "a/nan": None,
        "a/b": 0.5,
        "a/b_ci95": [0.25, None],
        "a/c": 0.25,
        "a/c_ci95": [0.1, 0.3],
    }
    assert numbers(read.metrics) == {"a/b": (0.5, None), "a/c": (0.25, [0.1, 0.3])}


class _Constant:
    primary_metric = "a/b"

    def __init__(self, metrics: dict[str, Any]) -> None:
        self.metrics = metrics

    def __call__(self, embedder: Any) -> dict[str, Any]:
        return self.metrics


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        CellStore(tmp_path / "file" / "cells")
    store = CellStore(tmp_path / "cells")
    (tmp_path / "cells" / Cell("m", "d", "t").file_name).mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        store.write(CellResult(Cell("m", "d", "t"), "done"))
    assert [path.is_dir() for path in (tmp_path / "cells").iterdir()] == [True]
