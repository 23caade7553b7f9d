"""What a search is asked for, what it found, and who is told on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmcl.config import Recipe
from mmcl.tuning.asked import AskedRecipe
from mmcl.tuning.confirming import Choice
from mmcl.tuning.metric import Metric
from mmcl.tuning.stages import Stage
from mmcl.tuning.trial_book import TrialRecord


@dataclass(frozen=True)
class TuneRequest:
    """What is to be searched, and how long.

    Attributes:
        recipe: a YAML file, or the name of a shipped recipe.
        overrides: ``key=value`` pairs.
        folder: for the results; None: ``tune/NAME``.
        budget: seconds of wall time; None with ``trials``: no limit.
        trials: of the search, the recipe's own among them.
        seeds: other seeds that the best settings are trained with.
        search: settings as ``--search`` has them; none: the default ones.
        metric: what counts; None: the recipe's ``evaluate.metric``.
        pruner: of ``PRUNERS``.
        resume: go on with the search in the folder.
    """

    recipe: str | Path
    overrides: tuple[str, ...] = ()
    folder: Path | None = None
    budget: float | None = None
    trials: int | None = None
    seeds: int = 3
    search: tuple[str, ...] = ()
    metric: str | None = None
    pruner: str = "median"
    resume: bool = False


@dataclass(frozen=True)
class TuneResult:
    """What a search found.

    Attributes:
        folder: its results.
        asked: the recipe it was begun with.
        metric: what counted.
        stages: with their trials, in order.
        repeats: trainings with other seeds.
        choice: who wins; the recipe as it was asked where nothing could be compared with it.
        seconds: of wall time, earlier parts of the search included.
        interrupted: whether a signal ended it.
        unfinished: why the recipe as it was asked could not be compared; empty: it was.
    """

    folder: Path
    asked: AskedRecipe
    metric: Metric
    stages: list[tuple[Stage, list[TrialRecord]]]
    repeats: list[TrialRecord]
    choice: Choice
    seconds: float
    interrupted: bool = False
    unfinished: str = ""

    @property
    def best(self) -> Path:
        """The recipe that wins."""
        return self.folder / "best.yaml"

    @property
    def trials(self) -> list[TrialRecord]:
        """Of all stages."""
        return [record for _, records in self.stages for record in records]


class Listener(Protocol):
    """Told how a search goes."""

    def begins(self, stage: Stage, recipe: Recipe, metric: Metric, known: Sequence[TrialRecord]) -> None: ...

    def trial(self, record: TrialRecord) -> None: ...
