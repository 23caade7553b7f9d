"""From measurements to forecasts of memory, time and disk."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from mmcl.config import Recipe
from mmcl.data.cache_folder import cache_folder
from mmcl.plan.fitting import Growth
from mmcl.plan.forecast import DiskForecast, MemoryForecast, PhaseForecast, TimeForecast
from mmcl.plan.measured import Measured

KEPT_FREE = 0.1  # of the memory: a training that fills it all does not fit
METRICS_LINE, EVALUATION_LINE = 300, 1500  # bytes of metrics.jsonl

# Stages of a measurement -> what a person calls them.
STAGES = {
    "start": "starting",
    "inputs": "data and features",
    "steps": "training steps",
    "evaluation": "evaluation",
    "checkpoint": "checkpoint",
    "end": "judgement at the end",
}


# -- memory ------------------------------------------------------------------------------------------------------


def memory_forecast(measured: Measured, rows: int, *, limit: float | None) -> MemoryForecast:
    """The peak of the run, and the largest batches that fit.

    Args:
        measured: all measurements.
        rows: wanted, of one process.
        limit: bytes; None: what is free here, less a tenth.
    """
    last = measured.whole[-1][1]
    in_pieces = measured.recipe.train.micro_batch_size is not None
    stages = _stages(measured)
    micro = _micro(measured)
    pieces = _cached_growth(measured, micro)
    line = (pieces if in_pieces else measured.growth).at(last["rows"])
    extrapolated = last["rows"] < rows
    if extrapolated:
        grown = (pieces if in_pieces else measured.growth).at(rows)
        stages = {name: max(size, grown) if name == "training steps" else size for name, size in stages.items()}
    around = max((size for name, size in stages.items() if name != "training steps"), default=0.0)
    free = last["machine"]["free"]
    # What a training may take; the whole of what somebody says that another machine has.
    limit = (1 - KEPT_FREE) * free if limit is None else limit
    return MemoryForecast(
        peak=max(stages.values()),
        stages=stages,
        fixed=measured.growth.fixed,
        per_row=measured.growth.per_row,
        per_row_squared=measured.growth.per_row_squared,
        points=[(point["rows"], float(point["peaks"]["steps"])) for point in measured.small],
        measured_rows=last["rows"],
        measured=float(last["peaks"]["steps"]),
        line=line,
        extrapolated=extrapolated,
        limit=limit,
        largest_plain=_capped(_checked(measured.growth, measured).raised(around).largest(limit), measured),
        largest_cached=_capped(pieces.raised(around).largest(limit), measured),
        micro_batch_size=micro,
    )


def _stages(measured: Measured) -> dict[str, float]:
    """The largest peak of each stage over the phases."""
    stages: dict[str, float] = {}
    for _, answer in measured.whole:
        for key, name in STAGES.items():
            if key in answer["peaks"]:
                stages[name] = max(stages.get(name, 0.0), float(answer["peaks"][key]))
    return stages


def _checked(growth: Growth, measured: Measured) -> Growth:
    """The line moved to go through the largest plain batch that was measured, where that is above it."""
    answer = measured.whole[-1][1]
    if measured.recipe.train.micro_batch_size is not None:
        return growth
    above = max(0.0, answer["peaks"]["steps"] - growth.at(answer["rows"]))
    return Growth(growth.fixed + above, growth.per_row, growth.per_row_squared)


def _micro(measured: Measured) -> int:
    """Rows of a piece: the recipe's, or those that were measured."""
    if measured.recipe.train.micro_batch_size is not None:
        return int(measured.whole[-1][1]["micro_batch_size"])
    return int(measured.small[0]["rows"])


def _cached_growth(measured: Measured, micro: int) -> Growth:
    """A step in pieces: one piece through the encoders, and of every row its inputs and embeddings."""
    plain, cached = measured.growth, measured.cached
    each = max(point["loss_memory"]["inputs_per_row"] for point in measured.small)
    if cached is not None:
        seen = (cached["peaks"]["steps"] - plain.at(cached["micro"])) / (cached["rows"] - cached["micro"])
        each = max(each, seen)
    piece = plain.fixed + plain.per_row * micro
    return Growth(piece - each * micro, each, plain.per_row_squared)


def _capped(rows: int | None, measured: Measured) -> int | None:
    """None where all the data fit into one batch."""
    return None if rows is None or rows >= measured.data.train else max(0, rows)


# -- time --------------------------------------------------------------------------------------------------------


def time_forecast(measured: Measured, rows: int) -> TimeForecast:
    """Seconds to the end; see ``TimeForecast``."""
    recipe, data = measured.recipe, measured.data
    first, last = measured.whole[0][1], measured.whole[-1][1]
    seconds = first["seconds"]
    made = max(answer["seconds"]["inputs"] for answer in [*measured.small, first])  # tokens are made but once
    found, begins = [], [math.ceil(part.from_epoch * data.batches_per_epoch) for part, _ in measured.whole]
    for (part, answer), begin, end in zip(measured.whole, begins, [*begins[1:], data.total_steps]):
        judged = answer.get("evaluation")
        number = 0 if judged is None else _evaluations(measured, begin, end)
        each = 0.0 if judged is None else judged["later"]
        found.append(PhaseForecast(part.from_epoch, end - begin, _step_seconds(measured, answer, rows), number, each))
    warm_up = max(0.0, seconds["first_step"] - median(first["step_seconds"]))
    if first.get("evaluation"):
        warm_up += max(0.0, first["evaluation"]["first"] - first["evaluation"]["later"])
    evaluations = sum(phase.evaluations for phase in found)
    training = sum(phase.steps * phase.step_seconds for phase in found)
    saving = max(1, evaluations) * seconds["save_model"] + _checkpoints(measured, training) * seconds["checkpoint"]
    minutes = recipe.train.max_minutes
    loop = warm_up + training + saving + sum(phase.evaluations * phase.evaluation_seconds for phase in found)
    return TimeForecast(
        start=seconds["start"] + seconds["data"] + seconds["model"] + made,
        features=sum(one["missing"] * one["seconds_each"] for one in first["features"]),
        warm_up=warm_up,
        phases=found,
        saving=saving,
        final=last["final"]["seconds"] if "final" in last else 0.0,
        folds=folds_share(recipe) * training,
        stopped_after=60 * minutes if minutes is not None and 60 * minutes < loop else None,
    )


def folds_share(recipe: Recipe) -> float:
    """Steps that cross-fitting makes before a run, as a share of the run's own: each fold's model sees the others."""
    noise = recipe.noise
    return noise.fold_share * (noise.folds - 1) if noise.method == "cross_fit" else 0.0


def _step_seconds(measured: Measured, answer: dict[str, Any], rows: int) -> float:
    """The median step; where fewer rows were measured, grown with the rows."""
    step = median(answer["step_seconds"])
    if answer["rows"] >= rows:
        return step
    small = measured.small[0]
    slope = (step - median(small["step_seconds"])) / max(1, answer["rows"] - small["rows"])
    return step + max(0.0, slope) * (rows - answer["rows"])


def _evaluations(measured: Measured, begin: int, end: int) -> int:
    """Evaluations behind the steps ``begin + 1`` to ``end``; the last step of the run is always judged."""
    section, data = measured.recipe.evaluate, measured.data
    every = section.every_steps or max(1, round((section.every_epochs or 1.0) * data.batches_per_epoch))
    last = end == data.total_steps and end % every != 0
    return end // every - begin // every + int(last)


def _checkpoints(measured: Measured, training: float) -> int:
    """Checkpoints that are written: at the end, and as often as the recipe says."""
    section = measured.recipe.checkpoint
    number = 1
    if section.every_steps is not None:
        number += measured.data.total_steps // section.every_steps
    if section.every_minutes is not None:
        number += int(training / 60 / section.every_minutes)
    return number


# -- disk --------------------------------------------------------------------------------------------------------


def disk_forecast(measured: Measured) -> DiskForecast:
    """Bytes on disk; see ``DiskForecast``."""
    recipe, answer = measured.recipe, measured.whole[-1][1]
    steps = measured.data.total_steps
    training = sum(median(each["step_seconds"]) * steps for _, each in measured.whole[-1:])
    evaluations = _evaluations(measured, 0, steps) if answer.get("evaluation") else 0
    section = recipe.train.feature_cache
    features = Path(section.dir).expanduser() if section.dir else cache_folder() / "features"
    return DiskForecast(
        checkpoint=answer["checkpoint_bytes"],
        checkpoints_kept=min(recipe.checkpoint.keep, _checkpoints(measured, training)),
        model=answer["model_bytes"],
        metrics=(steps // recipe.train.log_every + 2) * METRICS_LINE + evaluations * EVALUATION_LINE,
        features=sum(one["missing"] * one["bytes_each"] for one in measured.whole[0][1]["features"]),
        tokens=measured.tokens,
        free=_free(recipe.run_dir),
        free_for_features=_free(features),
        # The starting model, and with WiSE-FT the best one beside that which is chosen.
        models_beside=int(bool(recipe.evaluate.before) or recipe.evaluate.wise_ft.enabled)
        + int(recipe.evaluate.wise_ft.enabled),
    )


def _free(folder: Path) -> int:
    """Free bytes where a folder is, or would be."""
    folder = folder.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
