"""`mmcl tune`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from mmcl.config import Recipe
    from mmcl.tuning.metric import Metric
    from mmcl.tuning.request import TuneResult
    from mmcl.tuning.results import StageReport
    from mmcl.tuning.stages import Stage
    from mmcl.tuning.trial_book import TrialRecord

MATTERED = 6  # settings of a stage that the console tells of; the report has all


def tune(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="YAML file, or the name of a shipped recipe (see: mmcl recipes).")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, such as run.seed=1.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="Wall time, such as 90s, 10m or 2h; default 10m.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Trials, instead of --budget or beside it.")
    ] = None,
    search: Annotated[
        list[str] | None,
        typer.Option("--search", metavar="SPEC", help="key=low..high[:log] or key=a,b,c; default: what matters."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option("--metric", metavar="NAME", help="What counts, or a sum of such; default evaluate.metric."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", help="Other seeds the best are trained with.")] = 3,
    pruner: Annotated[
        str, typer.Option("--pruner", metavar="NAME", help="median, hyperband or none: which trials end early.")
    ] = "median",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Results; default tune/RECIPE_NAME.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in the folder.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the result as JSON.")] = None,
) -> None:
    """Search a recipe's settings on its validation split; the test split is never opened.

    Trial 0 is the recipe as it was asked. Features of frozen towers are computed once for all trials; towers that train
    join in a second stage, with the best few settings. The winner is named by other seeds, and written as a recipe.

    Examples:

      mmcl tune emoji data.path=path/to/emoji --budget 10m

      mmcl tune my.yaml --trials 40 --metric "retrieval/mean_recall@1+zeroshot/top1" --seeds 5

      mmcl tune my.yaml --search optimizer.learning_rate=1e-4..1e-2:log --search train.batch_size=64,128,256

      mmcl tune my.yaml --budget 10m --resume

    Then: mmcl train tune/my/best.yaml
    """
    check_json_file(json_file)
    from mmcl.config import load_recipe
    from mmcl.tuning.limits import parse_budget

    seconds = None if budget is None else parse_budget(budget)
    load_recipe(recipe, overrides or [])  # a wrong key is told before anything heavy loads

    from mmcl.tuning.request import TuneRequest
    from mmcl.tuning.results import as_json, stage_reports
    from mmcl.tuning.trial_book import TrialBook
    from mmcl.tuning.tuner import tune as run_search

    request = TuneRequest(
        recipe, tuple(overrides or ()), out, seconds, trials, seeds, tuple(search or ()), metric, pruner, resume
    )
    console = make_console()
    with watch_work(console) as progress:
        result = run_search(request, listener=SearchDisplay(console), progress=progress)
    direction = "maximize" if result.metric.mode == "max" else "minimize"
    reports = stage_reports(result, TrialBook(result.folder, direction=direction, pruner=pruner))
    show_result(console, result, reports)
    write_json(json_file, as_json(result, reports))
    if result.interrupted:
        raise KeyboardInterrupt


class SearchDisplay:
    """A line for every trial, with the best so far.

    Args:
        console: where it is shown.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._began = console, time.monotonic()
        self._metric: Metric | None = None
        self._best: TrialRecord | None = None
        self._own: dict[str, str] = {}

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def begins(self, stage: Stage, recipe: Recipe, metric: Metric, known: Sequence[TrialRecord]) -> None:
        """A stage begins, or goes on behind trials that are known: what it searches."""
        self._metric, self._best = metric, None
        way = "most" if metric.mode == "max" else "least"
        self._print(f"stage {stage.name}: {metric.name} on validation, the {way} is best; searched are")
        for setting in stage.space:
            self._print(f"  {setting.key}: {setting.describe()}")
        for key, value in stage.fixed.items():
            self._print(f"  {key}={value} in every trial of this stage")
        for record in known:
            self._note(record, metric)
        if self._best is not None:
            best = f"the best is {metric.show(self._best.value)} (trial {self._best.number})"
            self._print(f"{len(known)} trials are done; {best}")

    def trial(self, record: TrialRecord) -> None:
        """A trial, or a repeat, came to an end."""
        metric = self._metric
        value = metric.show(record.value)
        if record.stage == "seeds":
            words = [f"seed {record.seed}", value, f"{record.seconds:.1f} s", _settings(record.settings) or "as asked"]
            self._print("  ".join(words))
            return
        self._note(record, metric)
        best = "" if self._best is None else f"best {metric.show(self._best.value)} (trial {self._best.number})"
        changed = {key: v for key, v in record.settings.items() if self._own.get(key) != v}
        what = "the recipe as asked" if record.number == 0 else _settings(changed)
        state = f"{record.state}: {record.reason}" if record.reason else record.state
        end = "" if record.state == "complete" else f"  {state}"
        elapsed = f"{time.monotonic() - self._began:.0f} s"
        self._print(f"{elapsed:>6}  trial {record.number}  {value}  {best}  {what}{end}")

    def _note(self, record: TrialRecord, metric: Metric) -> None:
        if record.number == 0:
            self._own = record.settings
        if record.is_complete and (self._best is None or metric.better(record.value, self._best.value)):
            self._best = record


def _settings(settings: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in settings.items())


def show_result(console: Console, result: TuneResult, reports: list[StageReport]) -> None:
    """Tables of the candidates and of what mattered, and where the results are."""
    from rich.markup import escape
    from rich.table import Table

    from mmcl.tuning.results import candidate_rows, verdict

    if not result.unfinished:
        header, rows = candidate_rows(result)
        table = Table(*map(escape, header), title=f"{escape(result.metric.name)} on validation")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for report in reports:
        console.print(f"stage {report.stage.name}: {report.counts}. What mattered:", markup=False, soft_wrap=True)
        for one in report.influences[:MATTERED]:
            share = "" if one.importance is None else f"; explains {100 * one.importance:.0f} %"
            console.print(f"  {one.sentence(result.metric)}{share}", markup=False, soft_wrap=True)
        if report.warning:
            console.print(f"  {report.warning}", markup=False, soft_wrap=True)
    for sentence in verdict(result):
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"mmcl train {result.best}", markup=False, soft_wrap=True)
    if result.interrupted:
        console.print("Go on with the same command and --resume.", markup=False)
