"""Checks of the weights: whether they are finite, whether any trains, and how far training has moved them."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from mmcl.doctor.examination.subject import Subject
from mmcl.doctor.finding import Finding
from mmcl.models.dual_encoder import DualEncoder

HARDLY = 0.02  # share of themselves by which weights have moved
FAR = 3.0
LARGE_STEP = 0.5  # what one step of Adam may change a weight by, as a share of a usual weight
HOT_STEP = 0.3  # the largest change of one step that was seen, of all sampled weights
WARMUP = 0.9  # share of the run

ADAPTIVE = ("adam", "adamw", "nadam", "radam", "adamax")  # their steps are about as long as the learning rate


def not_finite(subject: Subject) -> list[Finding]:
    """Weights that were not finite before the first step, and a loss that was not finite later."""
    if subject.start is not None and (found := first_not_finite(subject.start)) is not None:
        name, count, of = found
        return [
            Finding(
                "not_a_number",
                "fault",
                f"The weights that training started from are not finite: {count:,} of {of:,} values of {name}.",
                float(count),
                0.0,
                f"Replace the weights behind model.{name.partition('.')[0]}.name, or set "
                f"model.{name.partition('.')[0]}.pretrained=false.",
            )
        ]
    reason, steps = subject.ending.reason, subject.course
    stopped = subject.ending.state == "stopped" and ("nan" in reason.lower() or "inf" in reason.lower())
    if not stopped or steps.largest_update >= HOT_STEP or is_hot(subject):
        return []
    rows = ", ".join(subject.ending.rows[:4])
    precision = subject.recipe.train.precision
    return [
        Finding(
            "not_a_number",
            "fault",
            f"The run stopped at step {steps.step + 1}: {reason.rstrip('.')}, with weights that began finite and a "
            f"learning rate of {subject.recipe.optimizer.learning_rate:g}.",
            math.nan,
            0.0,
            "Set train.precision=fp32." if precision == "fp16" else f"Look at the rows of that batch ({rows} ...).",
        )
    ]


def first_not_finite(model: DualEncoder) -> tuple[str, int, int] | None:
    """The first tensor of a model that holds NaN or infinity: its name, how many values, of how many."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            return name, int((~value.isfinite()).sum()), value.numel()
    return None


def encoder_weights(model: DualEncoder) -> Iterator[tuple[str, Tensor]]:
    """Names and values of what trains in towers and heads, or is to be thawed later."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name.startswith(("image.", "text.")):
            yield name, parameter


def nothing_trains(subject: Subject) -> list[Finding]:
    """No weight of a tower or head ever trains, or none has changed at all."""
    if subject.start is None:
        return []
    recipe, number = subject.recipe, sum(p.numel() for _, p in encoder_weights(subject.start))
    thaws = any(tower.freeze_until_epoch for tower in (recipe.model.image, recipe.model.text))
    advice = (
        "Thaw a tower (model.image.freeze=false, model.text.freeze=false) or give the model heads "
        "(model.image.head.name=linear, model.text.head.name=linear)."
    )
    if not number and not thaws:
        text = "Both towers are frozen and the heads hold no weights: 0 of {:,} weights of the encoders train."
        total = sum(p.numel() for p in subject.start.parameters())
        return [Finding("nothing_trains", "fault", text.format(total), 0.0, 0.0, advice)]
    moved = weights_moved(subject)
    if moved is not None and moved == 0 and subject.course.step:
        text = f"After {subject.course.step} steps every weight of both encoders is what it was at the start."
        rate = "Raise optimizer.learning_rate, and see that schedule.warmup_steps is shorter than the run."
        return [Finding("nothing_trains", "fault", text, 0.0, 0.0, rate)]
    return []


def weights_moved(subject: Subject) -> float | None:
    """``|w - w0| / |w0|`` of that tower or head which moved most; None where start and end are not both there."""
    if subject.start is None or subject.trained is None:
        return None
    end = subject.trained.state_dict()
    sums: dict[str, list[float]] = {}
    for name, before in encoder_weights(subject.start):
        after = end.get(name)
        if after is None or after.shape != before.shape:
            return None  # another shape of model, such as one with merged adapters
        part = ".".join(name.split(".")[:2])
        change, size = sums.setdefault(part, [0.0, 0.0])
        difference = (after.detach().double() - before.detach().double()).square().sum()
        sums[part] = [change + float(difference), size + float(before.detach().double().square().sum())]
    ratios = [math.sqrt(change / size) for change, size in sums.values() if size > 0]
    return max(ratios) if ratios else None


def usual_weight(model: DualEncoder) -> float:
    """Root mean square of the matrices that train; NaN where none does."""
    squares = [(float(p.detach().double().square().sum()), p.numel()) for _, p in encoder_weights(model) if p.ndim >= 2]
    number = sum(count for _, count in squares)
    return math.sqrt(sum(total for total, _ in squares) / number) if number else math.nan


def is_hot(subject: Subject) -> bool:
    """Whether one step of the optimizer changes weights by a large share of themselves."""
    optimizer = subject.recipe.optimizer
    if subject.start is None or optimizer.name.lower() not in ADAPTIVE:
        return False
    return optimizer.learning_rate >= LARGE_STEP * usual_weight(subject.start)


def rate_too_high(subject: Subject) -> list[Finding]:
    """Steps that change weights by a large share of themselves: a fault of a run that diverged or learnt nothing.

    A run that has learnt in spite of them, as heads with norms do when the rate falls to 0 in the end, gets a warning.
    """
    recipe, course, moved = subject.recipe, subject.course, weights_moved(subject)
    rate = recipe.optimizer.learning_rate
    diverged = subject.ending.state == "stopped" and (course.largest_update >= HOT_STEP or is_hot(subject))
    lost = subject.is_near_chance and not subject.has_learnt and bool(course.steps)
    moved_far = moved is not None and (moved >= FAR or not math.isfinite(moved))
    wild = moved_far and course.largest_update >= HOT_STEP
    broken = diverged or (lost and (moved_far or is_hot(subject) or course.largest_update >= HOT_STEP))
    if not broken and not wild:
        return []
    if diverged:
        what = f"The run stopped at step {course.step + 1} ({subject.ending.reason.rstrip('.') or 'it diverged'})"
    else:
        what = f"After {course.step} steps the loss is {course.mean('loss'):.3g}"
        what += f" (chance is {course.chance:.3g})" if course.chance else ""
    usual = math.nan if subject.start is None else usual_weight(subject.start)
    step = f"a step changes weights by about {rate:.2g}, {rate / usual:.2g} times a usual weight ({usual:.2g})"
    far = "" if moved is None or not math.isfinite(moved) else f", and they have moved by {moved:.3g} times themselves"
    return [
        Finding(
            "learning_rate_too_high",
            "fault" if broken else "warning",
            f"{what}; {step}{far}.",
            rate / usual if math.isfinite(usual) else rate,
            LARGE_STEP,
            f"Set optimizer.learning_rate={suggested_rate(rate, usual):.1g} (now {rate:g}).",
        )
    ]


def suggested_rate(rate: float, usual: float) -> float:
    """A rate that changes a usual weight by 2 % a step, where Adam's steps are concerned; a thirtieth at least."""
    return min(rate / 30, 0.02 * usual) if math.isfinite(usual) and usual > 0 else rate / 30


def rate_too_low(subject: Subject) -> list[Finding]:
    """Weights that have hardly moved in a run that has learnt nothing, or a warm-up that never ends."""
    recipe, course = subject.recipe, subject.course
    total, asked = course.total_steps, recipe.schedule.warmup_steps
    if asked is not None and total and asked >= WARMUP * total and recipe.optimizer.learning_rate > 0:
        highest = max((r["lr"] for r in subject.records if "lr" in r), default=0.0)
        return [
            Finding(
                "learning_rate_too_low",
                "fault",
                f"schedule.warmup_steps is {asked:,} and the run has {total:,} steps: the learning rate never got "
                f"beyond {highest:.2g}, {100 * highest / recipe.optimizer.learning_rate:.2g} % of "
                f"optimizer.learning_rate ({recipe.optimizer.learning_rate:g}).",
                asked / total,
                WARMUP,
                f"Set schedule.warmup_steps={max(1, round(0.05 * total))}, or leave it out.",
            )
        ]
    moved = weights_moved(subject)
    if moved is None or not 0 < moved < HARDLY or not subject.is_near_chance or course.step < 10:
        return []
    rate = recipe.optimizer.learning_rate
    loss = f"the loss is {course.mean('loss'):.3g}" + (f" (chance is {course.chance:.3g})" if course.chance else "")
    return [
        Finding(
            "learning_rate_too_low",
            "fault",
            f"After {course.step} steps {loss}, and the weights have moved by {100 * moved:.2g} % of themselves.",
            moved,
            HARDLY,
            f"Set optimizer.learning_rate={min(1e-3, 100 * rate) if rate < 1e-3 else 10 * rate:.1g} (now {rate:g}).",
        )
    ]
