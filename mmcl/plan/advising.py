"""What to think about before a training: each warning with a number and the recipe's key that mends it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmcl.config import Recipe
from mmcl.plan.forecast import Advice, Plan
from mmcl.plan.wording import duration, size

MANY_REPEATS = 0.05  # share of a batch's rows with a false negative
LARGE_LOGITS = 0.2  # share of the memory that the loss's matrices take
SLOW_FEATURES = 5.0  # times as long as the training itself: worth keeping, and worth saying


def advise(plan: Plan, recipe: Recipe, answer: dict[str, Any]) -> list[Advice]:
    """The warnings of a plan, the gravest first.

    Args:
        plan: all but its ``advice``.
        recipe: what is planned.
        answer: of the measurement of the whole: its machine and workers.
    """
    return [
        *_memory(plan, recipe),
        *_disk(plan, recipe),
        *_length(plan, recipe),
        *_data(plan, recipe),
        *_towers(plan, recipe, answer),
        *_machine(plan, recipe, answer),
    ]


def _memory(plan: Plan, recipe: Recipe) -> Iterator[Advice]:
    memory = plan.memory
    if not memory.fits:
        largest = memory.largest_plain
        if (
            max(memory.stages, key=memory.stages.get) == "evaluation"
            and memory.stages["training steps"] <= memory.limit
        ):
            step = f"set evaluate.batch_size below {recipe.evaluate.batch_size}"
        elif recipe.train.micro_batch_size is None and (memory.largest_cached is None or memory.largest_cached > 1):
            step = "set train.micro_batch_size=auto (the same gradients, in pieces that fit)"
            step += f", or train.batch_size={largest}" if largest else ""
        else:
            step = "set train.gradient_checkpointing=true or take smaller towers"
        text = f"the run would take {size(memory.peak)} at its peak, of {size(memory.limit)} that it may"
        yield Advice("memory", text, step)
    logits = memory.per_row_squared * plan.data.rows_a_step**2
    if logits > LARGE_LOGITS * memory.limit:
        text = f"loss.name={recipe.loss.name} keeps matrices of batch x batch: {size(logits)} at this batch"
        yield Advice("logits_memory", text, "take loss.name=info_nce or sigmoid, which never hold them whole")


def _disk(plan: Plan, recipe: Recipe) -> Iterator[Advice]:
    disk = plan.disk
    if (recipe.run_dir / "config.yaml").exists():
        text = f"{plan.run_dir} already holds a run, so that the training would not begin"
        yield Advice("run_folder_taken", text, "set run.dir to another folder, or go on with mmcl train --resume")
    if disk.run > disk.free:
        text = f"the run folder would take {size(disk.run)}, and {size(disk.free)} are free at {plan.run_dir}"
        yield Advice("disk_too_small", text, "set checkpoint.keep=1, or run.dir to a larger disk")
    if disk.features + disk.tokens > disk.free_for_features:
        text = f"kept features would take {size(disk.features)}, and {size(disk.free_for_features)} are free"
        yield Advice("disk_too_small", text, "set train.feature_cache.dir to a larger disk")


def _length(plan: Plan, recipe: Recipe) -> Iterator[Advice]:
    data, time, schedule = plan.data, plan.time, recipe.schedule
    if schedule.warmup_steps is not None and schedule.warmup_steps >= data.total_steps:
        text = f"schedule.warmup_steps is {schedule.warmup_steps}, but the run has {data.total_steps} steps"
        yield Advice("warm_up_too_long", text, "set schedule.warmup_steps below a tenth of the steps, or leave it out")
    if time.evaluations > time.training:
        text = f"evaluations take {duration(time.evaluations)}, longer than training ({duration(time.training)})"
        step = "set evaluate.every_epochs higher, evaluate.max_rows lower, or leave tasks out of evaluate.tasks"
        yield Advice("evaluation_longer_than_training", text, step)
    if time.stopped_after is not None:
        text = f"train.max_minutes={recipe.train.max_minutes:g} ends the run before its {data.total_steps} steps"
        yield Advice("max_minutes", text, "set train.epochs lower, so that the schedule reaches its end")


def _data(plan: Plan, recipe: Recipe) -> Iterator[Advice]:
    data = plan.data
    if data.batch_size > data.train:
        text = f"train.batch_size={data.batch_size} is more than the {data.train} rows of the training split"
        yield Advice("batch_larger_than_data", text, f"set train.batch_size to {max(2, data.train // 4)} or so")
    elif data.batches_per_epoch == 1:
        text = "an epoch is one step: every step sees all the data"
        yield Advice("epoch_of_one_step", text, f"set train.batch_size to {max(2, data.train // 4)} or so")
    if data.repeated_captions > MANY_REPEATS:
        text = (
            f"{100 * data.repeated_captions:.0f} % of a batch's rows meet another row with the same caption, which "
            f"counts as wrong"
        )
        step = "set batches.name=unique_groups, or a smaller train.batch_size"
        if recipe.loss.positives != "group":
            step = "set loss.positives=group, or batches.name=unique_groups"
        yield Advice("false_negatives", text, step)


def _towers(plan: Plan, recipe: Recipe, answer: dict[str, Any]) -> Iterator[Advice]:
    for side, part in (("image", plan.parameters[0]), ("text", plan.parameters[2])):
        tower = getattr(recipe.model, side)
        if part.total and not part.trained and not part.cached and tower.freeze_until_epoch is None:
            text = f"the {side} tower is frozen, and still runs at every step: train.feature_cache.enabled is false"
            yield Advice("feature_cache_off", text, "set train.feature_cache.enabled=true")
    if not any(part.trained for part in plan.parameters[:4]):
        text = "no parameter of a tower or head trains"
        yield Advice("nothing_trains", text, "set model.image.freeze=false or give a head with weights")
    missing = [one for one in plan.features if one.missing]
    if missing and plan.time.features > SLOW_FEATURES * max(1.0, plan.time.training):
        text = f"computing the features of frozen towers takes {duration(plan.time.features)}, most of the first run"
        yield Advice("features_first", text, "later runs find them; mmcl plan --keep-features computes them now")
    for modality in answer["untried"]:
        text = f"a forward pass of {recipe.train.feature_cache.batch_size} {modality}s is too slow to be tried here"
        yield Advice("features_memory", text, "set train.feature_cache.batch_size lower, so that its memory is known")


def _machine(plan: Plan, recipe: Recipe, answer: dict[str, Any]) -> Iterator[Advice]:
    machine, precision = answer["machine"], recipe.train.precision
    if precision == "bf16" and not machine["bf16"]:
        where = "this GPU" if plan.device == "cuda" else "this processor"
        text = f"train.precision=bf16, but {where} has no arithmetic for it and imitates it slowly"
        yield Advice("slow_precision", text, "set train.precision=fp32" + (" or fp16" if plan.device == "cuda" else ""))
    workers = answer["workers"]
    if workers > machine["cores"]:
        text = f"data.workers={workers}, but there are {machine['cores']} cores"
        yield Advice("too_many_workers", text, f"set data.workers={max(0, machine['cores'] - 1)} or auto")
    if plan.device == "cpu" and plan.time.total > 3600 and any(part.trained for part in (plan.parameters[0:3:2])):
        text = "towers train on a CPU, for hours"
        yield Advice("cpu_only", text, "freeze them (model.image.freeze=true, model.text.freeze=true), or use a GPU")
    if plan.device == "cuda" and not any(part.trained for part in plan.parameters[0:3:2]) and plan.time.features < 60:
        text = "the GPU will be idle most of the time: only heads train, on kept features"
        yield Advice("gpu_idle", text, "a larger train.batch_size costs nothing here, and a CPU is enough")
