"""`TrialBook`: an Optuna study in a file of JSON lines, and its trials as records."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcl.errors import ConfigError, require
from mmcl.tuning.metric import Metric
from mmcl.tuning.settings import Setting
from mmcl.tuning.trial_runs import COMPLETE, TrialOutcome

JOURNAL = "study.jsonl"
STARTUP_TRIALS = 8  # drawn at random before the sampler learns from what it saw
PRUNERS = ("median", "hyperband", "none")
PARTS = 10  # of a training, at whose ends trials are compared


@dataclass(frozen=True)
class TrialRecord:
    """A trial as results list it.

    Attributes:
        stage: of the search.
        number: within the stage; 0 is the recipe as it was asked.
        seed: ``run.seed``.
        settings: recipe key -> YAML; for number 0 the recipe's own values.
        state: ``complete``, ``pruned`` or ``failed``.
        value: of the metric; of a pruned trial: as far as it came.
        seconds, steps, reason, metrics, curve: see ``TrialOutcome``.
        at: seconds of work of this search until its end, interrupted ones together.
    """

    stage: str
    number: int
    seed: int
    settings: dict[str, str]
    state: str
    value: float | None
    seconds: float
    steps: int = 0
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    at: float = 0.0

    @property
    def label(self) -> str:
        """How people are told of it."""
        return f"{self.stage} {self.number}"

    @property
    def is_complete(self) -> bool:
        """Whether its value counts."""
        return self.state == COMPLETE and self.value is not None and not math.isnan(self.value)


class TrialBook:
    """Studies of a search, one a stage, in one journal; JSON alone is read and written.

    Args:
        folder: of the search.
        direction: ``"maximize"`` or ``"minimize"``.
        pruner: of ``PRUNERS``.
        seed: of the sampler. The next proposal depends on it and on what is in the journal, so that a search that was
            stopped proposes the same as one that was not.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigError: the journal cannot be read.
    """

    def __init__(self, folder: Path, *, direction: str, pruner: str = "median", seed: int = 0) -> None:
        self._optuna = require("optuna", extra="tune")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self.folder, self.direction, self.pruner, self.seed = folder, direction, pruner, seed
        _mend(folder / JOURNAL)
        journal = require("optuna.storages.journal", extra="tune")
        file = str(folder / JOURNAL)
        # The usual lock is a symbolic link, which not every file system has.
        backend = journal.JournalFileBackend(file, lock_obj=journal.JournalFileOpenLock(file))
        try:
            if Path(file).is_file():  # Optuna reads on over a last line that is none, and fails at the next
                [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
            self._storage = self._optuna.storages.JournalStorage(backend)
        except (ValueError, KeyError, json.JSONDecodeError) as error:
            raise ConfigError(f"{file} is damaged ({error}); remove the folder, or choose another -o") from error
        self.studies: dict[str, Any] = {}

    def open(self, stage: str) -> Any:
        """The study of a stage, which is begun where there is none; trials that were broken off are closed."""
        if stage not in self.studies:
            study = self._optuna.create_study(
                storage=self._storage,
                study_name=stage,
                direction=self.direction,
                pruner=self._make_pruner(),
                load_if_exists=True,
            )
            for trial in study.get_trials(deepcopy=False, states=(self._optuna.trial.TrialState.RUNNING,)):
                study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL)
            self.studies[stage] = study
        return self.studies[stage]

    def _make_pruner(self) -> Any:
        pruners = self._optuna.pruners
        if self.pruner == "none":
            return pruners.NopPruner()
        if self.pruner == "hyperband":
            return pruners.HyperbandPruner(min_resource=1, max_resource=PARTS, reduction_factor=3)
        # A training that starts slowly may still win: nobody is judged by the first third.
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=PARTS // 3, n_min_trials=3)

    def propose(self, stage: str, space: tuple[Setting, ...], settings: Mapping[str, str] | None = None) -> Any:
        """The next trial of a stage.

        Args:
            stage: of the search.
            space: what is searched.
            settings: recipe key -> YAML: this very point, and no proposal. Where one of its values lies outside the
                space, the sampler does not learn from it.
        """
        study = self.open(stage)
        done = sum(bool(trial.user_attrs) for trial in study.get_trials(deepcopy=False))  # not those broken off
        study.sampler = self._optuna.samplers.TPESampler(
            seed=1_000_003 * self.seed + done, n_startup_trials=STARTUP_TRIALS, constant_liar=False
        )
        distributions = {setting.key: setting.distribution() for setting in space}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options that may change in later versions
            if settings is None:
                return study.ask(distributions)
            point = {setting.key: setting.read(settings[setting.key]) for setting in space}
            if any(value is None for value in point.values()):
                return study.ask()
            study.enqueue_trial(point)
            return study.ask(distributions)

    def finish(self, stage: str, trial: Any, record: TrialRecord) -> None:
        """Write a trial's end; to the sampler, one that failed is one that was pruned."""
        state = self._optuna.trial.TrialState
        trial.set_user_attr("record", dataclasses.asdict(record))
        if record.is_complete:
            self.open(stage).tell(trial, record.value, state=state.COMPLETE)
        else:
            self.open(stage).tell(trial, state=state.PRUNED)

    def drop(self, stage: str, trial: Any, *, known: bool = False) -> None:
        """Close a trial that was broken off, or (``known``) that proposes a point which was tried before."""
        if known:
            trial.set_user_attr("known", True)  # so that the next proposal is another one
        self.open(stage).tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def records(self, stage: str) -> list[TrialRecord]:
        """The trials of a stage that came to an end, in order."""
        found = [trial.user_attrs.get("record") for trial in self.open(stage).get_trials(deepcopy=False)]
        return [TrialRecord(**record) for record in found if record is not None]

    def write_note(self, stage: str, key: str, value: Any) -> None:
        """Keep something about a stage: plain values."""
        self.open(stage).set_user_attr(key, value)

    def note(self, stage: str, key: str) -> Any:
        """What was kept, or None."""
        return self.open(stage).user_attrs.get(key)


def better_than_asked(records: Sequence[TrialRecord], metric: Metric) -> list[TrialRecord]:
    """The completed trials that are better than the first, the recipe as it was asked; the best first."""
    if not records or not records[0].is_complete:
        return []
    found = [r for r in records[1:] if r.is_complete and metric.better(r.value, records[0].value)]
    return sorted(found, key=lambda record: metric.gain(record.value, 0.0), reverse=True)


def record_of(
    outcome: TrialOutcome, *, stage: str, number: int, seed: int, settings: Mapping[str, str], at: float
) -> TrialRecord:
    """An outcome as it is kept."""
    value = outcome.value if outcome.value is None or math.isfinite(outcome.value) else None
    metrics = {name: number for name, number in outcome.metrics.items() if math.isfinite(number)}
    return TrialRecord(
        stage=stage, number=number, seed=seed, settings=dict(settings), state=outcome.state, value=value,
        seconds=outcome.seconds, steps=outcome.steps, reason=outcome.reason, metrics=metrics,
        curve=[[share, value] for share, value in outcome.curve if math.isfinite(value)], at=round(at, 1),
    )  # fmt: skip


def _mend(path: Path) -> None:
    """Drop a last line that a kill left half-written; the next one would be appended to it."""
    if not path.is_file():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(whole)
        os.replace(partial, path)
