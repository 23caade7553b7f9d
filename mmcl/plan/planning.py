"""`make_plan`: a few measurements of a recipe, and what follows from them for the whole training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mmcl.config import Recipe, load_recipe
from mmcl.errors import ConfigError
from mmcl.plan.advising import advise
from mmcl.plan.fitting import Growth, fit_growth
from mmcl.plan.forecast import DataForecast, FeatureForecast, PartParameters, Plan
from mmcl.plan.forecasting import disk_forecast, memory_forecast, time_forecast
from mmcl.plan.measured import Measured
from mmcl.plan.processes import Measuring, OutOfMemoryError, Progress
from mmcl.plan.variants import Phase, phases

SMALL_ROWS = 16  # of the first measurement
FIT_STEPS, FIT_SECONDS = 2, 15.0  # timed steps of a measurement of memory, and about how long they may take
TIMED_SECONDS = 15.0  # steps are timed for about so long at the wanted batch
SAFE_SHARE = 0.7  # of the free memory: what a measurement may take by what is known before it
SECOND_SHARE = 0.4  # the same of the second measurement, of which little is known before
CACHED_FACTOR = 8  # rows of the measurement with gradient caching, over those of one piece


def make_plan(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    steps: int = 20,
    memory: float | None = None,
    keep_features: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """Say what a training will take, from a few real steps whose weights are thrown away.

    Every measurement runs in a fresh process: a small batch and a larger one, through which a line goes; the wanted
    batch, which checks the line and is timed, with evaluations, a checkpoint and the judgement at the end; and a batch
    with gradient caching. Nothing is written into the run folder, and nothing into the caches.

    Args:
        recipe: a recipe, its file, or the name of one that ships with mmcl.
        overrides: ``key=value`` pairs.
        steps: how many are timed at most.
        memory: bytes that the training may take, to plan for another machine; None: what is free on this one.
        keep_features: compute the features of frozen towers now, and leave them in the cache for the training.
        progress: told what is measured, how many measurements are done, and of how many.

    Returns:
        The plan. Its ``sentences()`` are what the command prints.

    Raises:
        ConfigError: the recipe cannot be trained as it is, or an argument is out of range.
        DataError: the data cannot be read.
        TrainingError: a measurement failed, such as by memory that does not hold two rows.

    Example:
        >>> make_plan("quickstart", steps=5).memory.fits  # doctest: +SKIP
        True
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps}; want at least 1 step to time")
    if memory is not None and not memory > 0:
        raise ConfigError(f"memory is {memory:g} bytes; want more than 0")
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    chosen = ""
    if recipe.recipe is not None:
        from mmcl.auto_recipe import resolve_recipe  # heavy, and seldom asked for

        recipe, choice = resolve_recipe(recipe, progress=progress)
        chosen = choice.paragraph
    with Measuring(progress) as measuring:
        plan = _Planner(recipe, measuring, steps, keep_features, progress).plan(memory)
    return dataclasses.replace(plan, chosen=chosen)


class _Planner:
    """The measurements of one plan, in their order."""

    def __init__(
        self, recipe: Recipe, measuring: Measuring, steps: int, keep_features: bool, progress: Progress | None
    ) -> None:
        self._recipe, self._measuring = recipe, measuring
        self._steps, self._keep, self._progress = steps, keep_features, progress
        self._unknown: list[str] = []
        self._done, self._of = 0, 4
        self._points: list[dict[str, Any]] = []

    def plan(self, memory: float | None) -> Plan:
        first, parts = self._first()
        data = self._data(first)
        rows = self._share(data.rows_a_step)
        self._second(parts[-1], first, rows)
        measured = Measured(
            recipe=self._recipe,
            data=data,
            small=self._points,
            growth=self._growth(),
            whole=[],
            cached=None,
            tokens=0,
        )
        free = first["machine"]["free"]
        most = rows if measured.growth.at(rows) <= SAFE_SHARE * free else self._largest_here(measured.growth, free)
        if self._recipe.train.micro_batch_size is not None:
            most = rows  # in pieces, of which the caller says the size
        for part in parts:
            measured.whole.append((part, self._whole(part, most)))
        measured.cached = self._cached(parts[-1], data)
        measured.tokens = self._measuring.written_tokens()
        self._tell("measured", last=True)
        return self._put_together(measured, memory, rows)

    # -- measurements --------------------------------------------------------------------------------------------

    def _first(self) -> tuple[dict[str, Any], list[Phase]]:
        """A small batch, and the phases that the run will reach."""
        parts = phases(self._recipe)
        size = self._small_rows()
        while True:
            answer = self._measure(parts[-1], f"{size} rows a step", size)
            batches = answer["data"]["batches_per_epoch"]
            reached = [part for part in parts if part.from_epoch * batches < self._total_steps(batches)]
            if len(reached) == len(parts):
                self._points = [{**answer, "rows": min(size, answer["data"]["train"])}]
                return answer, parts
            parts = reached

    def _small_rows(self) -> int:
        return max(2, min(SMALL_ROWS, self._share(self._recipe.train.batch_size) // 4))

    def _second(self, part: Phase, first: dict[str, Any], rows: int) -> None:
        """A larger batch: half of the wanted one at most, in memory and time that the first lets expect."""
        small = self._points[0]["rows"]
        each = max(1.0, (first["peaks"]["steps"] - first["peaks"]["held"]) / small)  # too much: part of it is fixed
        room = (SECOND_SHARE * first["machine"]["free"] - first["peaks"]["held"]) / each
        patience = FIT_SECONDS / max(1e-3, median(first["step_seconds"]) / small) / (FIT_STEPS + 1)
        larger = int(min(rows // 2, room, patience, 64 * small))
        if larger < 2 * small:
            return
        try:
            answer = self._measure(part, f"{larger} rows a step", larger)
        except OutOfMemoryError:
            return
        self._points.append({**answer, "rows": larger})

    def _largest_here(self, growth: Growth, free: float) -> int:
        fits = growth.largest(SAFE_SHARE * free)
        least = max(point["rows"] for point in self._points)
        return max(least, 2 ** int(math.log2(max(2, fits or 2))))

    def _whole(self, part: Phase, rows: int) -> dict[str, Any]:
        """The wanted batch, or as much of it as fits, with everything around the steps."""
        micro = self._recipe.train.micro_batch_size
        for size in dict.fromkeys((rows, max(point["rows"] for point in self._points))):
            # A batch of the wanted size is asked for as the recipe does, so that its batches are made in the same way.
            wanted = self._share(self._recipe.train.batch_size) if size == rows == self._rows_wanted else size
            when = f" from epoch {part.from_epoch:g} on" if part.from_epoch else ""
            try:
                answer = self._measure(
                    part, f"{size} rows a step{when}, evaluations and checkpoints", wanted, micro=micro, full=True
                )
            except OutOfMemoryError:
                continue
            return {**answer, "rows": size}
        raise OutOfMemoryError(
            f"memory ran out with {size} rows a step; set train.micro_batch_size=auto, or take smaller towers"
        )

    def _cached(self, part: Phase, data: DataForecast) -> dict[str, Any] | None:
        """A batch several times as large as the pieces that it is cut into; None where the data are too few."""
        micro = self._points[0]["rows"]
        rows = CACHED_FACTOR * micro
        if rows > data.train:
            return None
        try:
            answer = self._measure(part, f"{rows} rows a step in pieces of {micro}", rows, micro=micro)
        except (OutOfMemoryError, ConfigError):
            return None
        return {**answer, "rows": rows, "micro": micro}

    def _measure(
        self, part: Phase, title: str, rows: int, *, micro: int | str | None = None, full: bool = False
    ) -> dict[str, Any]:
        self._tell(f"measuring {title}")
        request = {
            "batch_size": rows,
            "micro_batch_size": micro,
            "steps": self._steps if full else FIT_STEPS,
            "seconds": TIMED_SECONDS if full else FIT_SECONDS,
            "full": full,
            "keep_features": self._keep and full,
        }
        try:
            answer = self._measuring.measure(self._on_this_machine(part.recipe), **request)
        except ConfigError as error:
            if self._recipe.train.precision != "fp16" or "needs a GPU" not in str(error) or self._unknown:
                raise
            self._unknown.append(
                "train.precision=fp16 needs a GPU and there is none here: everything was measured in fp32 on the CPU; "
                "memory and time on the GPU are not known, run mmcl plan there"
            )
            return self._measure(part, title, rows, micro=micro, full=full)
        self._done += 1
        return answer

    def _on_this_machine(self, recipe: Recipe) -> Recipe:
        if not self._unknown:
            return recipe
        return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": "fp32"})})

    def _tell(self, title: str, *, last: bool = False) -> None:
        if self._progress is not None:
            self._of = max(self._of, self._done + 1)
            self._progress("plan: " + title, self._of if last else self._done, self._of)

    # -- what they say -------------------------------------------------------------------------------------------

    def _share(self, rows: int) -> int:
        """Rows of one process."""
        return -(-rows // (self._recipe.run.num_processes or 1))

    def _total_steps(self, batches: int) -> int:
        return self._recipe.train.max_steps or math.ceil(self._recipe.train.epochs * batches)

    def _data(self, answer: dict[str, Any]) -> DataForecast:
        facts = answer["data"]
        data = DataForecast(
            train=facts["train"],
            judged=facts["judged"],
            captions_a_row=facts["captions_a_row"],
            batch_size=self._recipe.train.batch_size,
            batches_per_epoch=facts["batches_per_epoch"],
            total_steps=self._total_steps(facts["batches_per_epoch"]),
            repeated_captions=facts["repeated_captions"],
        )
        self._rows_wanted = self._share(data.rows_a_step)
        return data

    def _growth(self) -> Growth:
        counted = self._points[-1]["loss_memory"]
        squared = max(point["loss_memory"]["per_row_squared"] for point in self._points)
        points = [(point["rows"], point["peaks"]["steps"]) for point in self._points]
        return fit_growth(points, per_row_squared=squared, counted=counted["per_row"])

    def _put_together(self, measured: Measured, memory: float | None, rows: int) -> Plan:
        whole = measured.whole[0][1]
        machine = whole["machine"]
        self._note_unknown(machine)
        plan = Plan(
            recipe=self._recipe.name,
            run_dir=str(self._recipe.run_dir),
            device=machine["device"],
            device_name=machine["name"],
            parameters=[PartParameters(**part) for part in whole["parameters"]],
            data=measured.data,
            memory=memory_forecast(measured, rows, limit=memory),
            time=time_forecast(measured, rows),
            disk=disk_forecast(measured),
            features=[
                FeatureForecast(one["title"], one["total"], one["missing"], one["missing"] * one["seconds_each"])
                for one in whole["features"]
            ],
            unknown=self._unknown,
            said=whole["said"],
        )
        plan.advice.extend(advise(plan, self._recipe, whole))
        return plan

    def _note_unknown(self, machine: dict[str, Any]) -> None:
        processes = self._recipe.run.num_processes or 1
        if processes > 1:
            self._unknown.append(
                f"run.num_processes is {processes}: one process was measured with its share of the batch; what the "
                f"processes tell one another, and how they share the machine, is not known here"
            )
        if machine["device"] == "cpu" and self._recipe.train.precision == "bf16":
            self._unknown.append(
                "train.precision=bf16 was measured on a CPU; if the training is for a GPU, its memory and time are not "
                "known here: run mmcl plan there"
            )
        section = self._recipe.evaluate
        if section.before or section.wise_ft.enabled:
            what = f"evaluate.before judges {len(section.before)} further data set(s) before and after training"
            if section.wise_ft.enabled:
                places = len({0.0, 1.0, *section.wise_ft.alphas})
                others = f"{len(section.before)} further data set(s)"
                what = f"evaluate.wise_ft judges {places} models on validation and on {others}"
            self._unknown.append(f"{what}: that time is not in the plan")
        if self._recipe.batches.name == "clusters":
            self._unknown.append(
                "batches.name=clusters embeds the training split with batches.model before the first step: that time "
                "and memory are not in the plan"
            )
