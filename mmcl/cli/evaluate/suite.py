"""`mmcl eval suite`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from mmcl.cli.console import check_json_file, make_console, write_json
from mmcl.cli.evaluate.options import Cache, Device, Json

if TYPE_CHECKING:
    from mmcl.builders.suite import SuitePlan
    from mmcl.config.suite import Suite
    from mmcl.evaluation.suite import Cell, CellResult, Share


def suite(
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]MODEL... [NAME=]DATA...", help="Models, then data; or one SUITE.yaml."),
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", metavar="SUITE", help="YAML of models, data and tasks, or a shipped one.")
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="[NAME=]MODEL", help="A further model; repeatable.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="[NAME=]DATA", help="Further data; repeatable.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", "--task", metavar="TASK,...", help="Tasks, or 'TASK={option: value}'; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where cells and tables go; default results."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Items a forward pass.")] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32, bf16 or fp16.")] = None,
    device: Device = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes on this machine.")] = 1,
    share: Annotated[
        str | None,
        typer.Option("--share", metavar="PART/PARTS", help="Compute this part alone, and write no table: job arrays."),
    ] = None,
    cache: Cache = True,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is already there.")] = False,
    json_file: Json = None,
) -> None:
    """Judge several models on several data sets by several tasks, and write one table of it all.

    Every cell (a model on a data set by a task) is kept in FOLDER/cells as soon as it is computed; the same command
    goes on where it was broken off, and computes again only what has changed. FOLDER/results.md, .csv, .html and .json
    hold the tables. Also: accelerate launch recipes/eval_suite.py ...

    Example: mmcl eval suite runs/a runs/b path/to/emoji:test shapes:test --tasks retrieval,zeroshot -o results
    """
    check_json_file(json_file)
    changes = {"batch_size": batch_size, "precision": precision, "device": device, "output": output and str(output)}
    whole = _read_suite(references or [], config, models or [], data or [], tasks or [], changes)
    from mmcl.builders.suite import SuitePlan
    from mmcl.builders.suite_processes import device_of, launched_share, run_workers, share_of, wait_for_all

    launched = launched_share() if share is None else None
    part = launched if share is None else share_of(share)
    plan = SuitePlan(whole, device=whole.device or (device_of(part) if part else None), cache=cache)
    if part is None or part.index == 0:
        plan.keep_suite()
    try:
        if workers > 1 and part is None:
            again = [*(["--force"] if force else []), *([] if cache else ["--no-cache"])]
            run_workers(workers, ["eval", "suite", "--config", str(plan.kept_suite), *again])
        else:
            with _Lines(part) as lines:
                plan.run(share=part, force=force, watch=lines)
    except KeyboardInterrupt:
        typer.echo(f"finished cells are in {plan.store.folder}; the same command goes on from there", err=True)
        raise
    if launched is not None:
        wait_for_all()
    if part is None or (launched is not None and part.index == 0):
        _close(plan, json_file)
    elif launched is None and any(one.status == "failed" for one in plan.results(part)):
        raise typer.Exit(1)


def _read_suite(
    references: list[str], config: str | None, models: list[str], data: list[str], tasks: list[str], changes: dict
) -> Suite:
    """The suite that the command line and its YAML make together; the command line has the last word."""
    from mmcl.builders.suite_references import named, sort_references
    from mmcl.config.suite import SUITE_SUFFIXES, load_suite, suite_from_tree, suite_to_tree
    from mmcl.errors import ConfigError

    files = [reference for reference in references if reference.lower().endswith(SUITE_SUFFIXES)]
    if len(files) + (config is not None) > 1:
        raise ConfigError(f"several suites are named: {', '.join(filter(None, [*files, config]))}; give one")
    tree: dict[str, Any] = {"models": {}, "data": {}}
    if files or config:
        tree = suite_to_tree(load_suite(config or files[0]))
    own = [reference for reference in references if reference not in files]
    more_models, more_data = sort_references(
        own, models=bool(models or tree["models"]), data=bool(data or tree["data"])
    )
    for key, given in (("models", [*more_models, *models]), ("data", [*more_data, *data])):
        pairs = [named(text) for text in given]
        names = [name for name, _ in pairs]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"{key} holds {repeated[0]!r} twice; give each a name of its own, as in NAME=REFERENCE")
        tree[key] |= dict(pairs)
    if tasks:
        tree["tasks"] = [task for text in tasks for task in _parse_tasks(text)]
    tree |= {key: value for key, value in changes.items() if value is not None}
    return suite_from_tree(tree, source=config or (files[0] if files else "mmcl eval suite"))


def _parse_tasks(text: str) -> list[Any]:
    """``retrieval,zeroshot``, or ``zeroshot={templates: photo}``."""
    from mmcl.config import parse_yaml

    name, sign, options = text.partition("=")
    if sign:
        return [{name.strip(): parse_yaml(options, source=f"--task {name.strip()}")}]
    return [name.strip() for name in text.split(",") if name.strip()]


class _Lines:
    """Says on stderr which cell is computed, how long each took, and how long the rest may take."""

    def __init__(self, share: Share | None) -> None:
        self._console = Console(stderr=True, emoji=False, highlight=False, markup=False, soft_wrap=True)
        self._prefix = f"{share.index + 1}/{share.count}: " if share is not None else ""
        self._status = Status("", console=self._console)
        self._what = Text()
        self._live = self._console.is_terminal and share is None  # two processes would write over each other
        self._began = time.perf_counter()

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def found(self, *, done: int, total: int) -> None:
        if done:
            self._console.print(f"{self._prefix}{done} of {total} cells are already there")

    def begins(self, cell: Cell, *, number: int, total: int) -> None:
        self._what = Text(f"{self._prefix}cell {number} of {total}: {cell}")
        if self._live:
            self._status.update(self._what)
            self._status.start()

    def embedding(self, what: str, done: int, total: int) -> None:
        if self._live:
            self._status.update(self._what + Text(f" ({done:,}/{total:,} {what.split()[0]})"))

    def ended(self, result: CellResult, *, number: int, total: int) -> None:
        self._status.stop()
        left = (time.perf_counter() - self._began) / number * (total - number)
        what = f"failed: {result.message}" if result.status == "failed" else f"{result.seconds:.1f} s"
        more = f", about {left:.0f} s left" if number < total else ""
        self._console.print(f"{self._prefix}cell {number} of {total}: {result.cell}  {what}{more}")


def _close(plan: SuitePlan, json_file: Path | None) -> None:
    """Write and show the tables; exit with 1 where a cell has failed or is missing."""
    from mmcl.evaluation.report.suite_table import suite_tables, to_json, to_terminal, without_metrics, write_tables

    results = plan.results()
    files = write_tables(results, plan.folder)
    write_json(json_file, {"cells": to_json(results)})
    console = make_console()
    for table in suite_tables(results):
        console.print(to_terminal(table))
    for model, data, task, status, why in without_metrics(results):
        console.print(f"{status}: {model} on {data}: {task} ({why})", markup=False, soft_wrap=True)
    console.print(f"tables: {', '.join(map(str, files))}", markup=False, soft_wrap=True)
    bad = sum(result.status in ("failed", "missing") for result in results)
    if bad:
        typer.echo(f"error: {bad} of {len(results)} cells have no result; see {files[0]}", err=True)
        raise typer.Exit(1)
