"""What one measurement does: start as a training starts, take some steps, judge, save, and judge at the end."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from mmcl.builders.judging import judge_best
from mmcl.builders.training import build_model, build_trainer
from mmcl.config import Recipe
from mmcl.data.splits.training_splits import Splits, load_splits
from mmcl.models.saving import from_pretrained
from mmcl.plan.judging_time import JudgingTime
from mmcl.plan.loss_memory import loss_memory
from mmcl.plan.peaks import Peaks
from mmcl.plan.stand_in_features import StandInFeatures
from mmcl.plan.survey import survey
from mmcl.plan.variants import measured_recipe
from mmcl.training.launch import start_accelerator
from mmcl.training.memory import free_bytes
from mmcl.training.runs import RunFolder
from mmcl.training.skips import SkipLedger
from mmcl.training.trainer import Trainer

FEWEST_STEPS = 3  # timed whatever they take


class _Enough(BaseException):
    """Raised behind the last step that is measured."""


class _Clock:
    """A display that notes when each step was done, and ends the training behind enough of them."""

    def __init__(self, steps: int, seconds: float) -> None:
        self._steps, self._seconds = steps, seconds
        self.marks: list[float] = [time.perf_counter()]

    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        self.marks.append(time.perf_counter())
        done = len(self.marks) - 2  # the first warms up
        if done >= self._steps or (done >= FEWEST_STEPS and self.marks[-1] - self.marks[0] > self._seconds):
            raise _Enough

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None:
        """Nothing is judged while steps are timed."""


class Measurement:
    """One measurement.

    Args:
        recipe: what is planned, as it begins in the phase that is measured.
        request: ``batch_size``, ``micro_batch_size``, ``steps``, ``seconds`` (of timed steps), ``full`` (with features,
            evaluations and checkpoints), ``keep_features``, ``features`` (folder of the cache), ``folder`` (of the
            run), ``spawned`` (time at which the process was started).
        progress: told how far the drawing of data and the features are.
        said: what mmcl has warned of so far; asked before the first step, since what is said of a few steps, perhaps on
            features that are made up, is not said of the training.
    """

    def __init__(
        self,
        recipe: Recipe,
        request: dict[str, Any],
        *,
        progress: Callable[[str, int, int], None],
        said: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._planned, self._request, self._progress, self._said = recipe, request, progress, said
        self._full = bool(request["full"])
        self._peaks = Peaks()
        self._found: dict[str, Any] = {"seconds": {}, "peaks": {}}
        self._mark = request["spawned"]

    def run(self) -> dict[str, Any]:
        """The measured seconds, bytes and facts."""
        request, found = self._request, self._found
        recipe = measured_recipe(
            self._planned,
            batch_size=request["batch_size"],
            micro_batch_size=request["micro_batch_size"],
            folder=Path(request["folder"]),
        )
        accelerator = start_accelerator(recipe.run, precision=recipe.train.precision, folder=recipe.run_dir)
        run = RunFolder(recipe.run_dir)
        run.prepare(recipe.model_dump(mode="json"), resume=False)
        self._lap("start")
        splits = load_splits(recipe, progress=self._progress)
        skips = SkipLedger(
            run, dropped=splits.train.skipped, usable=len(splits.train), share=recipe.data.max_skipped_share
        )
        self._lap("data")
        model = build_model(recipe, splits.train)
        self._lap("model")
        found["peaks"]["start"] = self._peaks.read()
        cache = self._cache(accelerator.device)
        clock = _Clock(request["steps"], request["seconds"])
        judged = JudgingTime(recipe, splits, cache, accelerator.device)
        with judged.shortened(model) as shortened:
            trainer = build_trainer(recipe, model, shortened, run, skips, accelerator, cache=cache, display=clock)
        computing = 0.0 if cache is None else cache.seconds
        self._lap("inputs", without=computing)
        found["peaks"]["inputs"] = self._peaks.read()
        found |= survey(self._planned, recipe, splits, trainer, cache=cache)
        found["machine"] = _machine(accelerator.device)
        found["said"] = list(dict.fromkeys(self._said()))
        self._steps(trainer, clock)
        if self._full:
            self._around(recipe, trainer, judged, run, splits)
            found["features"] = [] if cache is None else [dataclasses.asdict(one) for one in cache.asked.values()]
            found["untried"] = [] if cache is None else sorted(cache.untried)
        else:
            found["loss_memory"] = loss_memory(trainer, recipe)
        return found

    def _lap(self, name: str, *, without: float = 0.0) -> None:
        now = time.time()
        self._found["seconds"][name] = max(0.0, now - self._mark - without)
        self._mark = now

    def _cache(self, device: torch.device) -> StandInFeatures | None:
        section = self._planned.train.feature_cache
        if not section.enabled:
            return None
        bf16 = section.precision == "bf16" or (section.precision == "auto" and self._planned.train.precision == "bf16")
        return StandInFeatures(
            Path(self._request["features"]),
            timed=self._full,
            keep=self._request["keep_features"],
            device=device,
            batch_size=section.batch_size,
            bf16=bf16,
            progress=self._progress if self._request["keep_features"] else None,
        )

    def _steps(self, trainer: Trainer, clock: _Clock) -> None:
        found = self._found
        self._peaks.restart()
        found["peaks"]["held"] = self._peaks.now()
        clock.marks[0] = time.perf_counter()
        with contextlib.suppress(_Enough):
            trainer.fit()
        marks = clock.marks
        durations = [later - earlier for earlier, later in itertools.pairwise(marks)]
        found["seconds"]["first_step"] = durations[0] if durations else 0.0
        found["step_seconds"] = durations[1:] or durations
        found["micro_batch_size"] = trainer.gradients.size
        found["peaks"]["steps"] = self._peaks.read()

    def _around(self, recipe: Recipe, trainer: Trainer, judged: JudgingTime, run: RunFolder, splits: Splits) -> None:
        """Evaluation, model, checkpoint and the judgement at the end, each timed, with its peak."""
        found, seconds = self._found, self._found["seconds"]
        if trainer.hooks.judge is not None:
            found["evaluation"] = judged.during_training(trainer)
        found["peaks"]["evaluation"] = self._peaks.read()
        seconds["save_model"] = _seconds(trainer.judging.save_model)
        seconds["checkpoint"] = _seconds(functools.partial(trainer.keeper.save, trainer.progress))
        found["model_bytes"] = _size(run.model)
        found["checkpoint_bytes"] = _size(run.checkpoints / "last")
        found["peaks"]["checkpoint"] = self._peaks.read()
        if splits.test:
            begun = time.perf_counter()
            from_pretrained(run.model)
            loading = time.perf_counter() - begun
            found["final"] = judged.at_the_end(
                lambda tests: judge_best(recipe, run, tests, device=trainer.accelerator.device, cache=judged.cache),
                loading=loading,
            )
        found["peaks"]["end"] = self._peaks.read()


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.resolve().rglob("*") if path.is_file())


def _machine(device: torch.device) -> dict[str, Any]:
    """What memory there is for a training, and what the device can."""
    import os

    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        mine = torch.cuda.memory_reserved(device)
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        name = torch.cuda.get_device_name(device)
        return {"device": "cuda", "name": name, "free": free + mine, "total": total, "bf16": fast, "cores": cores}
    memory = psutil.Process().memory_info().rss
    fast = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    total = psutil.virtual_memory().total
    free = free_bytes() + memory
    return {"device": device.type, "name": "", "free": free, "total": total, "bf16": fast, "cores": cores}
