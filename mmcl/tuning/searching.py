"""`Searcher`: trial after trial of a stage, until the time or the number of trials is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mmcl.errors import ConfigError, MmclError
from mmcl.logs import get_logger
from mmcl.tuning.limits import MARGIN, Limits, typical_seconds, write_duration
from mmcl.tuning.settings import as_yaml, value_at
from mmcl.tuning.stages import START, Stage
from mmcl.tuning.trial_book import PARTS, TrialBook, TrialRecord, better_than_asked, record_of
from mmcl.tuning.trial_runs import CUT, PRUNED, Report, TrialOutcome, TrialRunner

log = get_logger(__name__)

SAME_POINTS = 30  # proposals in a row that were tried before: the space is used up
LATE = 0.3  # of a training, by which the last trial of a stage may be late
DEAREST = 2.0  # times a usual training: within a budget a trial that takes longer is given up

# Told of every trial that came to an end.
Tell = Callable[[TrialRecord], None]


class Searcher:
    """Searches the stages of a recipe.

    Args:
        runner: trains and judges.
        book: keeps what came of it.
        limits: what may be spent.
        seed: ``run.seed`` of every trial: they differ in their settings alone.
        repeats: trainings with other seeds that are to follow, for which time is kept.
        tell: told of every trial.
        worked: seconds that earlier, interrupted parts of this search took.
    """

    def __init__(
        self,
        runner: TrialRunner,
        book: TrialBook,
        limits: Limits,
        *,
        seed: int,
        repeats: int,
        tell: Tell | None = None,
        worked: float = 0.0,
    ) -> None:
        self.runner, self.book, self.limits = runner, book, limits
        self.seed, self.repeats, self.tell, self.worked = seed, repeats, tell, worked

    def search(self, stage: Stage, *, before: int = 0) -> list[TrialRecord]:
        """The trials of a stage, earlier ones that are in the book among them; the first is the recipe as it was asked.

        Args:
            stage: what is searched.
            before: trials of earlier stages, which count.

        Returns:
            In order; empty where there was no time for the first one in a stage that is not the first.

        Raises:
            ConfigError: the recipe as it was asked does not come to its end within the budget.
            KeyboardInterrupt: a signal; what was done is in the book.
        """
        records = self.book.records(stage.name)
        if not records and not self._asked(stage, may_fail=before > 0):
            return []
        same = 0
        while same < SAME_POINTS:
            records = self.book.records(stage.name)
            end = self._end(stage, records)
            if not self._goes_on(stage, records, end, before=before):
                break
            step = self._next(stage, records, end)
            if step is None:
                break
            same = 0 if step else same + 1
        if same == SAME_POINTS:
            log.info("stage %s: every point that is proposed was tried before", stage.name)
        return self.book.records(stage.name)

    def asked_settings(self, stage: Stage) -> dict[str, str]:
        """What the recipe as it was asked has for the settings of a stage."""
        recipe = self.runner.asked.recipe(stage.fixed)
        own = {START: "as asked"} if stage.starts else {}
        for setting in stage.space:
            if setting.key == START:
                continue
            value = value_at(recipe, setting.key)
            if value is None and setting.key.endswith(".learning_rate"):
                value = recipe.optimizer.learning_rate  # what a tower without a rate of its own has
            own[setting.key] = as_yaml(value)
        return own

    def _end(self, stage: Stage, records: list[TrialRecord]) -> float | None:
        each = typical_seconds([record.seconds for record in records if record.is_complete])
        # Where nothing is better than what was asked, there is nothing to repeat, and no time is kept for it.
        repeats = self.repeats if better_than_asked(records, self.runner.metric) else 0
        return self.limits.search_end(stage.share, repeats=repeats, each=each)

    def _goes_on(self, stage: Stage, records: list[TrialRecord], end: float | None, *, before: int) -> bool:
        if not stage.space:
            return False
        if self.limits.trials is not None and before + len(records) >= math.ceil(stage.share * self.limits.trials):
            return False
        return end is None or time.monotonic() + (1 - LATE) * _expected(records) < end

    def _asked(self, stage: Stage, *, may_fail: bool) -> bool:
        """Train the recipe as it was asked; whether it came to its end."""
        own = self.asked_settings(stage)
        trial = self.book.propose(stage.name, stage.space, own)
        outcome = self._run(stage.fixed, trial, stage, None, self.limits.end, forgive=may_fail)
        if outcome.state == CUT:
            self.book.drop(stage.name, trial)
            if may_fail:
                return False
            share = outcome.steps / max(1, self.runner.last_total)
            wanted = f"; give about {write_duration(4 * outcome.seconds / share)}" if share else "; give it more"
            raise ConfigError(
                f"--budget {write_duration(self.limits.budget or 0)}: the recipe as it was asked came to "
                f"{100 * share:.0f} % of its training within it{wanted}, or shorten the training"
            )
        self._keep(stage, trial, outcome, 0, own)
        return True

    def _next(self, stage: Stage, records: list[TrialRecord], end: float | None) -> bool | None:
        """One more trial: whether it was a new point; None where its time ran out."""
        number = len(records)
        first = stage.tries[number - 1] if number - 1 < len(stage.tries) else None
        trial = self.book.propose(stage.name, stage.space, first)
        point = first or {setting.key: setting.write(trial.params[setting.key]) for setting in stage.space}
        if any(record.settings == point for record in records):
            self.book.drop(stage.name, trial, known=True)
            return False
        late, dear = math.inf, math.inf
        if end is not None:
            late = end + LATE * MARGIN * _expected(records)
            dear = time.monotonic() + DEAREST * typical_seconds([record.seconds for record in records])
        outcome = self._run(stage.settings(point), trial, stage, self._report(trial), min(late, dear))
        if outcome.state == CUT and dear < late:
            outcome = replace(outcome, state=PRUNED, reason=f"takes more than {DEAREST:g} times a usual training")
        if outcome.state == CUT:
            self.book.drop(stage.name, trial)
            return None
        self._keep(stage, trial, outcome, number, point)
        return True

    def _run(
        self,
        settings: Mapping[str, str],
        trial: Any,
        stage: Stage,
        report: Report | None,
        deadline: float | None,
        *,
        forgive: bool = True,
    ) -> TrialOutcome:
        try:
            return self.runner.run(settings, seed=self.seed, report=report, deadline=deadline, forgive=forgive)
        except (KeyboardInterrupt, MmclError):
            self.book.drop(stage.name, trial)
            raise

    def _keep(self, stage: Stage, trial: Any, outcome: TrialOutcome, number: int, point: Mapping[str, str]) -> None:
        at = self.worked + time.monotonic() - self.limits.began
        record = record_of(outcome, stage=stage.name, number=number, seed=self.seed, settings=point, at=at)
        self.book.finish(stage.name, trial, record)
        if self.tell is not None:
            self.tell(record)

    def _report(self, trial: Any) -> Report:
        seen: set[int] = set()

        def report(share: float, value: float) -> bool:
            part = math.floor(share * PARTS + 1e-9)  # trainings of other lengths are judged at other steps
            if part < 1 or part in seen or math.isnan(value):
                return False
            seen.add(part)
            trial.report(value, part)
            return trial.should_prune()

        return report


def _expected(records: list[TrialRecord]) -> float:
    """Seconds of the next trial; nothing is known of them by the first, which also waited for data and features."""
    return typical_seconds([record.seconds for record in records]) if len(records) > 1 else 0.0
