"""`TrialRunner`: one training after another, each as `mmcl train` would do it, on data and features loaded once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mmcl.builders import training
from mmcl.config import Recipe
from mmcl.data.splits.training_splits import Splits, load_splits
from mmcl.errors import ConfigError, DataError, MissingDependencyError, MmclError
from mmcl.memory import is_out_of_memory, release_memory
from mmcl.training.cached_features import FeatureCache, ProgressCallback
from mmcl.training.gather import world_size
from mmcl.training.launch import start_accelerator
from mmcl.training.progress import Progress
from mmcl.training.runs import RunFolder
from mmcl.training.skips import SkipLedger
from mmcl.training.trainer import Trainer
from mmcl.tuning.asked import AskedRecipe
from mmcl.tuning.metric import Metric

# Told the share of the training that is done and the metric so far; true: the rest is not worth its time.
Report = Callable[[float, float], bool]

COMPLETE, PRUNED, FAILED, CUT = "complete", "pruned", "failed", "out of time"


@dataclass(frozen=True)
class TrialOutcome:
    """What one training came to.

    Attributes:
        state: ``complete``; ``pruned``: given up; ``failed``: it diverged or could not be built; ``out of time``.
        value: of the metric, of the model that ``mmcl train`` would keep; None where nothing was judged.
        seconds: of wall time, building included.
        steps: trained.
        reason: why it did not complete.
        metrics: numbers of the best evaluation.
        curve: (share of the training, metric of the best model so far) at each evaluation.
    """

    state: str
    value: float | None
    seconds: float
    steps: int = 0
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)


class _PrunedError(Exception):
    """The trial is given up."""


class _OutOfTimeError(Exception):
    """The budget is spent."""


class _Watch:
    """The display of a trial: keeps its curve, and ends it early."""

    def __init__(self, metric: Metric, report: Report | None, deadline: float | None) -> None:
        self._metric, self._report, self._deadline = metric, report, deadline
        self.trainer: Trainer | None = None
        self.steps, self.total = 0, 1
        self.value: float | None = None
        self.metrics: dict[str, float] = {}
        self.curve: list[tuple[float, float]] = []

    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        """Ends the trial where its time is up."""
        self.steps, self.total = record["step"], total_steps
        if self._deadline is not None and time.monotonic() > self._deadline and self.steps < total_steps:
            raise _OutOfTimeError

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None:
        """Takes the metric of the model that would be kept, and ends a trial that is not worth more time."""
        value = self._metric(metrics)
        if self.trainer is None or self.trainer.progress.best_step == step or self.value is None:
            self.value = value
            self.metrics = {name: float(v) for name, v in metrics.items() if isinstance(v, (int, float))}
        share = step / self.total
        self.curve.append((round(share, 4), self.value))
        if self._report is not None and self._report(share, self.value) and share < 1:
            raise _PrunedError


class SharedFeatures(FeatureCache):
    """A cache of features for one trial, which shares what is in memory with those of all other trials.

    A cache holds the towers that it has seen; one for each trial lets them go with it.
    """

    @classmethod
    def like(cls, cache: FeatureCache, memory: dict[str, Any]) -> SharedFeatures:
        """The same, with the features of another in memory."""
        twin = cls(
            cache.folder, device=cache.device, batch_size=cache.batch_size, bf16=cache.bf16, progress=cache.progress
        )
        twin._loaded = memory
        return twin


class TrialRunner:
    """Trains a recipe with settings and judges it on the validation split alone.

    Data are read once for each seed that changes which rows are drawn; features of frozen towers once for all trials.
    The test split is never opened.

    Args:
        asked: the recipe.
        metric: what counts.
        progress: told how far work before a training is.

    Raises:
        ConfigError: several processes run.
    """

    def __init__(self, asked: AskedRecipe, metric: Metric, *, progress: ProgressCallback | None = None) -> None:
        if world_size() > 1:
            raise ConfigError("mmcl tune runs on one process; start it without a launcher")
        self.asked, self.metric, self.progress = asked, metric, progress
        self._splits: tuple[str, int, Splits] | None = None
        self._features: dict[str, Any] = {}
        self.last_total = 0  # steps of the newest trial, had it come to its end

    def recipe(self, settings: Mapping[str, str], *, seed: int, folder: str = "") -> Recipe:
        """What a trial trains.

        Raises:
            ConfigError: the settings make no recipe.
        """
        # The watch for faults would tell of every trial that a search had to try.
        extra = [
            "evaluate.at_end=false",
            "run.tracker=none",
            "train.doctor=false",
            f"run.seed={seed}",
            f"run.dir={folder or 'unused'}",
        ]
        if self.metric.single is not None:
            extra.append(f"evaluate.metric={self.metric.single}")
        return self.asked.recipe(settings, *extra)

    def splits(self, recipe: Recipe) -> Splits:
        """The data of a trial, from memory where they are the same as the last one's."""
        data = recipe.data.model_dump_json(exclude={"captions", "augment", "workers", "prefetch", "cache_tokens"})
        key = "\x1f".join([data, recipe.negatives.model_dump_json(), str(recipe.evaluate.max_rows)])
        if self._splits is not None:
            known, seed, splits = self._splits
            if known == key and (seed == recipe.run.seed or not _is_drawn(recipe, splits)):
                return splits
        self._splits = None  # let the others go before these are read
        splits = load_splits(recipe, progress=self.progress)
        self._splits = (key, recipe.run.seed, splits)
        return splits

    def run(
        self,
        settings: Mapping[str, str],
        *,
        seed: int,
        report: Report | None = None,
        deadline: float | None = None,
        forgive: bool = True,
    ) -> TrialOutcome:
        """One training.

        Args:
            settings: dotted keys to YAML.
            seed: ``run.seed``.
            report: told of evaluations; may end the trial.
            deadline: of ``time.monotonic()``; the trial is cut there.
            forgive: a training that fails is an outcome, and no error.

        Raises:
            KeyboardInterrupt: a signal ended it.
            ConfigError, DataError, TrainingError: it failed and is not forgiven; or data or libraries are missing.
        """
        began = time.monotonic()
        watch = _Watch(self.metric, report, deadline)
        state, reason = COMPLETE, ""
        try:
            with tempfile.TemporaryDirectory(prefix="mmcl-tune-") as folder:
                result = self._trainer(self.recipe(settings, seed=seed, folder=folder), folder, watch).fit()
                if result.interrupted:
                    raise KeyboardInterrupt
        except _PrunedError:
            state, reason = PRUNED, "behind the others at this point"
        except _OutOfTimeError:
            state, reason = CUT, "the budget was spent"
        except (DataError, MissingDependencyError):
            raise
        except MmclError as error:
            if not forgive:
                raise
            state, reason = FAILED, str(error)
        except Exception as error:  # of a library, where memory runs out
            if not (forgive and is_out_of_memory(error)):
                raise
            state, reason = FAILED, "out of memory"
        self.last_total = watch.total
        if state != COMPLETE:
            release_memory()
        seconds = round(time.monotonic() - began, 3)
        return TrialOutcome(state, watch.value, seconds, watch.steps, reason, watch.metrics, watch.curve)

    def _trainer(self, recipe: Recipe, folder: str, watch: _Watch) -> Trainer:
        """The trainer of ``mmcl train``, which keeps no model and writes no checkpoint."""
        accelerator = start_accelerator(recipe.run, precision=recipe.train.precision, folder=Path(folder))
        splits = self.splits(recipe)
        if splits.validation is None:
            raise DataError(f"{recipe.data.path} has nothing to judge trials on; give data.split.validation")
        run = RunFolder(folder)
        run.prepare(recipe.model_dump(mode="json"), resume=False)
        train = splits.train
        skips = SkipLedger(run, dropped=train.skipped, usable=len(train), share=recipe.data.max_skipped_share)
        model = training.build_model(recipe, train)
        cache = training.build_cache(recipe, accelerator.device, self.progress)
        if cache is not None:
            cache = SharedFeatures.like(cache, self._features)
        trainer = training.build_trainer(recipe, model, splits, run, skips, accelerator, cache=cache, display=watch)
        if not trainer.judging.is_on:
            raise ConfigError(
                f"evaluate.tasks measure nothing on {splits.validation.name}; name a task that they allow"
            )
        trainer.judging.save_model = _keep_nothing
        trainer.keeper.save = _keep_nothing
        watch.trainer = trainer
        torch.manual_seed(recipe.run.seed)  # as before every training on one process
        return trainer

    def trained_towers(self) -> dict[str, bool]:
        """Side -> whether its tower starts from random weights, for towers that train in the recipe as it was asked."""
        recipe = self.recipe({}, seed=self.asked.recipe().run.seed)
        model = training.build_model(recipe, self.splits(recipe).train)
        found = {}
        for side in ("image", "text"):
            section = getattr(recipe.model, side)
            thaws = section.freeze_until_epoch is not None
            if thaws or not getattr(model, side).has_fixed_features:
                pretrained = recipe.model.init_from is not None or (section.name != "tiny" and section.pretrained)
                found[side] = not pretrained
        return found


def _is_drawn(recipe: Recipe, splits: Splits) -> bool:
    """Whether ``run.seed`` decides which rows are in which split: rows are held out, or drawn from more."""
    name = "" if splits.validation is None else splits.validation.name
    return recipe.data.max_rows is not None or name.endswith((":held out", " rows)"))


def _keep_nothing(*_: Progress) -> None:
    """A trial is never resumed, and its model is made again by the recipe that wins."""
