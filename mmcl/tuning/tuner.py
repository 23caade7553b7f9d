"""`tune`: from a recipe and a budget to the settings that are best on validation."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcl.config import Recipe, load_recipe
from mmcl.errors import ConfigError, MmclError, require
from mmcl.logs import get_logger
from mmcl.training.cached_features import ProgressCallback
from mmcl.tuning.asked import COPY, AskedRecipe
from mmcl.tuning.confirming import (
    ASKED,
    CANDIDATES,
    Candidate,
    Choice,
    Confirmation,
    candidates_of,
    choose,
    repeated,
)
from mmcl.tuning.default_space import default_space, fitting
from mmcl.tuning.limits import Limits
from mmcl.tuning.metric import Metric
from mmcl.tuning.request import Listener, TuneRequest, TuneResult
from mmcl.tuning.results import write_results
from mmcl.tuning.searching import Searcher
from mmcl.tuning.settings import Setting, parse_settings
from mmcl.tuning.stages import Stage, first_stage, tower_stage
from mmcl.tuning.trial_book import JOURNAL, PRUNERS, TrialBook, TrialRecord
from mmcl.tuning.trial_runs import TrialRunner

log = get_logger(__name__)

FIRST = "asked"  # the study that notes what a search was begun with


@dataclass
class _Search:
    """A search under way."""

    request: TuneRequest
    asked: AskedRecipe
    recipe: Recipe
    metric: Metric
    limits: Limits
    book: TrialBook
    runner: TrialRunner
    listener: Listener | None
    worked: float = 0.0
    stages: list[tuple[Stage, list[TrialRecord]]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    unfinished: str = ""

    def run(self) -> None:
        """Both stages, then the seeds."""
        trained = self.runner.trained_towers()
        first = first_stage(self.recipe, self._space(trained), trained)
        self._search(first)
        if first.fixed and self.stages[0][1]:
            best = [(c.label, c.settings) for c in candidates_of(first, self.stages[0][1], self.metric, most=3)[1:]]
            self._search(tower_stage(self.recipe, [*trained], best, first))
        stage, records = self.stages[-1]
        if not records:
            self.unfinished = (
                "the recipe as it was asked, with towers that train, did not come to its end within the budget; "
                "best.yaml is that recipe, and trials with frozen towers are listed"
            )
        elif not records[0].is_complete:
            self.unfinished = f"the recipe as it was asked fails, and is left as it is: {records[0].reason}"
        if self.unfinished:
            return
        self.candidates = candidates_of(stage, records, self.metric, most=CANDIDATES)
        confirmation = self._confirmation(stage)
        self.candidates = confirmation.run(self.candidates, self.request.seeds)

    def _search(self, stage: Stage) -> None:
        self._check(stage)
        if self.listener is not None:
            self.listener.begins(stage, self.recipe, self.metric, self.book.records(stage.name))
        searcher = Searcher(
            self.runner, self.book, self.limits, seed=self.recipe.run.seed,
            repeats=(CANDIDATES + 1) * self.request.seeds, tell=self._tell, worked=self.worked,
        )  # fmt: skip
        before = sum(len(records) for _, records in self.stages)
        self.stages.append((stage, []))
        self.stages[-1] = (stage, searcher.search(stage, before=before))

    def _tell(self, record: TrialRecord) -> None:
        if self.listener is not None:
            self.listener.trial(record)

    def _confirmation(self, stage: Stage) -> Confirmation:
        return Confirmation(
            self.runner, self.book, self.limits,
            stage=stage, seed=self.recipe.run.seed, tell=self._tell, worked=self.worked,
        )  # fmt: skip

    def _space(self, trained: dict[str, bool]) -> tuple[Setting, ...]:
        if self.request.search:
            return parse_settings(self.request.search, self.recipe)
        train = self.runner.splits(self.runner.recipe({}, seed=self.recipe.run.seed)).train
        space = default_space(self.recipe, rows=len(train), has_tags=train.has("tags"), towers_train=bool(trained))
        return fitting(space, lambda settings: self.runner.recipe(settings, seed=self.recipe.run.seed))

    def _check(self, stage: Stage) -> None:
        """Every end of the space makes a recipe; the same space as before, where the search goes on."""
        for setting in stage.space:
            for value in setting.ends():
                self.runner.recipe(stage.settings({setting.key: value}), seed=self.recipe.run.seed)
        described = {setting.key: setting.describe() for setting in stage.space}
        before = self.book.note(stage.name, "space")
        if before is not None and before != described:
            changed = next(key for key in {**before, **described} if before.get(key) != described.get(key))
            raise ConfigError(
                f"--resume: {self.request.folder} searches {changed} in {before.get(changed, 'no values')}, now asked "
                f"is {described.get(changed, 'no values')}; give the same --search, or another -o"
            )
        self.book.write_note(stage.name, "space", described)

    def gather(self, *, interrupted: bool) -> TuneResult | None:
        """What there is; None where not even one trial came to an end."""
        self.stages = [(stage, self.book.records(stage.name)) for stage, _ in self.stages]
        if not any(records for _, records in self.stages):
            return None
        stage, records = self.stages[-1]
        repeats: list[TrialRecord] = []
        if stage.fixed or not records or not records[0].is_complete:
            self.unfinished = self.unfinished or (
                "the recipe as it was asked, with towers that train, was not trained yet; best.yaml is that recipe"
            )
            asked = Candidate(ASKED, {}, math.nan)
            choice = Choice((asked,), asked, math.nan)
        else:
            repeats = self._confirmation(stage).records()
            found = self.candidates or candidates_of(stage, records, self.metric, most=CANDIDATES)
            choice = choose(repeated(found, repeats), self.metric)
        return TuneResult(
            folder=self.request.folder, asked=self.asked, metric=self.metric, stages=self.stages, repeats=repeats,
            choice=choice, seconds=self.worked + time.monotonic() - self.limits.began, interrupted=interrupted,
            unfinished=self.unfinished,
        )  # fmt: skip

    def leave_nothing(self) -> None:
        """Take the search out of its folder where no trial came to an end, so that the next try is not refused."""
        if self.request.resume or any(self.book.records(stage.name) for stage, _ in self.stages):
            return
        for name in (JOURNAL, COPY):
            (self.request.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds other files
            self.request.folder.rmdir()


def tune(
    request: TuneRequest, *, listener: Listener | None = None, progress: ProgressCallback | None = None
) -> TuneResult:
    """Search the settings of a recipe on its validation split and write the results.

    Args:
        request: what is searched.
        listener: told of every trial.
        progress: told how far the work before a training is.

    Returns:
        The result, with ``interrupted`` where a signal ended the search; what was done until then is written, and
        ``resume`` goes on with it.

    Raises:
        ConfigError: the request, or the recipe as it was asked, cannot be run; or the folder holds another search.
        MissingDependencyError: Optuna is not installed.
        KeyboardInterrupt: a signal, before the first trial came to its end.
    """
    require("optuna", extra="tune")
    search = _begin(request, listener, progress)
    interrupted = False
    try:
        search.run()
    except KeyboardInterrupt:
        interrupted = True
    except MmclError:
        search.leave_nothing()
        raise
    result = search.gather(interrupted=interrupted)
    if result is None:
        search.leave_nothing()
        raise KeyboardInterrupt
    worked = search.worked + time.monotonic() - search.limits.began
    search.book.write_note(FIRST, "seconds", worked)
    write_results(result, search.book)
    return result


def _begin(request: TuneRequest, listener: Listener | None, progress: ProgressCallback | None) -> _Search:
    limits = Limits.start(request.budget, request.trials)
    if request.pruner not in PRUNERS:
        raise ConfigError(f"--pruner is {request.pruner!r}; want one of {', '.join(PRUNERS)}")
    if request.seeds < 0:
        raise ConfigError(f"--seeds is {request.seeds}; want 0 (no repeats) or more")
    recipe = load_recipe(request.recipe, request.overrides)
    metric = Metric.parse(request.metric or recipe.evaluate.metric, mode=recipe.evaluate.mode)
    parse_settings(request.search, recipe)  # what is wrong there is told before a folder is made
    folder = request.folder or Path("tune") / recipe.name
    there = (folder / JOURNAL).is_file()
    if there and not request.resume:
        raise ConfigError(f"{folder} already holds a search; go on with it (--resume), write elsewhere (-o FOLDER)")
    if request.resume and not there:
        raise ConfigError(f"--resume: {folder} holds no search; leave --resume out to start one, or set -o")
    asked = AskedRecipe.copy(request.recipe, request.overrides, folder, progress=progress)
    recipe = asked.recipe()  # of recipe: auto, what was chosen
    runner = TrialRunner(asked, metric, progress=progress)
    direction = "maximize" if metric.mode == "max" else "minimize"
    book = TrialBook(folder, direction=direction, pruner=request.pruner, seed=recipe.run.seed)
    request = dataclasses.replace(request, folder=folder)
    search = _Search(request, asked, recipe, metric, limits, book, runner, listener)
    begun: dict[str, Any] = {"overrides": [*request.overrides], "metric": metric.name, "pruner": request.pruner}
    before = book.note(FIRST, "begun")
    if before is not None and before != begun:
        changed = next(key for key in begun if before.get(key) != begun[key])
        raise ConfigError(
            f"--resume: {folder} was begun with {changed} {before.get(changed)!r}, now asked is {begun[changed]!r}; "
            f"give the same, or another -o"
        )
    book.write_note(FIRST, "begun", begun)
    search.worked = book.note(FIRST, "seconds") or 0.0
    return search
