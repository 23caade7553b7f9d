"""A plan in words."""

from __future__ import annotations

from mmcl.plan.forecast import PartParameters, PhaseForecast, Plan
from mmcl.plan.wording import counted, duration, size


def sentences(plan: Plan) -> list[str]:
    """What ``mmcl plan`` prints: what was chosen, parameters, data, memory, time, disk, warnings, what is not known."""
    lines = [f"chosen: {plan.chosen}"] if plan.chosen else []
    lines += [_parameters(plan), _data(plan)]
    lines += [*_memory(plan), *_time(plan), _disk(plan)]
    lines += [f"warning: {one.text}; {one.next_step}." for one in plan.advice]
    lines += [f"the training itself says: {text}" for text in plan.said]
    return lines + [f"not known: {text}." for text in plan.unknown]


def _parameters(plan: Plan) -> str:
    total, trained = (sum(getattr(part, key) for part in plan.parameters) for key in ("total", "trained"))
    parts = ", ".join(f"{part.name} {part.total:,} ({_state(part)})" for part in plan.parameters if part.total)
    return f"parameters: {total:,}, of which {trained:,} are trained and {total - trained:,} frozen. {parts}."


def _state(part: PartParameters) -> str:
    if part.cached:
        return "frozen, features kept"
    if part.trained == part.total:
        return "trained"
    return "frozen" if part.trained == 0 else f"{part.trained:,} trained"


def _data(plan: Plan) -> str:
    data = plan.data
    judged = "".join(f", {name} {rows:,}" for name, rows in data.judged.items())
    return (
        f"data: {counted(data.train, 'row')} to train on{judged}; {data.captions_a_row:.1f} captions a row. "
        f"{counted(data.batches_per_epoch, 'batch')} of {data.rows_a_step:,} an epoch, {data.epochs:g} epochs: "
        f"{counted(data.total_steps, 'step')}."
    )


def _memory(plan: Plan) -> list[str]:
    memory = plan.memory
    kind = "allocated on the GPU" if plan.device == "cuda" else "of the whole process"
    stages = ", ".join(f"{name} {size(peak)}" for name, peak in memory.stages.items())
    how = "by the line below: this batch is too large to be tried here" if memory.extrapolated else "measured"
    fits = "it fits into" if memory.fits else "more than"
    lines = [f"memory: {size(memory.peak)} {kind} at the peak ({how}); {fits} {size(memory.limit)}. {stages}."]
    squared = f" + {memory.per_row_squared:.1f} bytes x rows^2" if memory.per_row_squared else ""
    points = " and ".join(f"{rows}" for rows, _ in memory.points)
    off = 100 * (memory.line / memory.measured - 1) if memory.measured else 0.0
    lines.append(
        f"memory of a step: {size(max(0.0, memory.fixed))} + {size(memory.per_row)} a row{squared}, measured with "
        f"{points} rows; with {memory.measured_rows:,} it says {size(memory.line)} where {size(memory.measured)} were "
        f"measured ({off:+.0f} %)."
    )
    lines.append(
        f"largest batch that fits: {_largest(memory.largest_plain, plan)}; with gradient caching "
        f"(train.micro_batch_size={memory.micro_batch_size}) {_largest(memory.largest_cached, plan)}."
    )
    return lines


def _largest(rows: int | None, plan: Plan) -> str:
    return f"all {plan.data.train:,} rows" if rows is None else f"{rows:,} rows"


def _time(plan: Plan) -> list[str]:
    time, data = plan.time, plan.data
    evaluations = sum(phase.evaluations for phase in time.phases)
    parts = [f"start {duration(time.start)}"]
    if plan.features:
        parts.append(f"features {_features(plan)}")
    if time.folds:
        parts.append(f"models of the folds {duration(time.folds)}")
    parts.append(f"steps {duration(time.warm_up + time.training)}")
    if evaluations:
        parts.append(f"{counted(evaluations, 'evaluation')} {duration(time.evaluations)}")
    parts += [f"model and checkpoints {duration(time.saving)}", f"judgement at the end {duration(time.final)}"]
    until = " (ended by train.max_minutes)" if time.stopped_after is not None else ""
    lines = [f"time: {duration(time.total)} to the end{until}: {', '.join(parts)}."]
    lines += [_phase(phase, data.batches_per_epoch, len(time.phases) > 1) for phase in time.phases]
    return lines


def _phase(phase: PhaseForecast, batches: int, several: bool) -> str:
    when = f"from epoch {phase.from_epoch:g} on, " if several else ""
    judged = f", {duration(phase.evaluation_seconds)} an evaluation" if phase.evaluations else ""
    epoch = duration(phase.step_seconds * batches)
    return f"time of a step: {when}{duration(phase.step_seconds)}; {epoch} an epoch{judged}."


def _features(plan: Plan) -> str:
    missing, total = (sum(getattr(one, key) for one in plan.features) for key in ("missing", "total"))
    if not missing:
        return "none to compute (all are in the cache)"
    return f"{duration(plan.time.features)} ({missing:,} of {total:,} are to be computed, once)"


def _disk(plan: Plan) -> str:
    disk = plan.disk
    caches = [(disk.features, "kept features"), (disk.tokens, "tokens")]
    added = "".join(f", {name} {size(number)}" for number, name in caches if number)
    return (
        f"disk: {size(disk.run)} in {plan.run_dir} ({disk.checkpoints_kept} of {size(disk.checkpoint)} a checkpoint "
        f"and one being written, model {size(disk.model)}){added}; {size(disk.free)} are free."
    )
