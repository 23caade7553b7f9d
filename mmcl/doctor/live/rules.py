"""Further rules over a run's records: temperature, false negatives, the space, gradients, overfitting, reading."""

from __future__ import annotations

import math
import statistics

from mmcl.doctor.finding import Finding
from mmcl.doctor.live.course import WINDOW, Course
from mmcl.doctor.live.stuck import LARGE_UPDATE, has_learnt, learnt_looks

AT_CLAMP = 0.5  # share of the newest looks
COLLAPSED = 0.3  # of the scale at the start
FLOOR = 0.5  # of the chance loss, that a scale which is not learnt leaves at best
FALSE_NEGATIVES = 0.2  # share of rows
RANK = 0.05  # of the dimensions that a look could find
LINE, PLANE = 1.5, 2.2  # dimensions: embeddings on a line, on a plane
FEWEST_DIMENSIONS, OPENING = 8, 1.1  # dimensions; growth of the rank over the looks of a model that still learns
FEWEST_LOOKS = 3  # at a model that has learnt something
GAP = 1.2  # of 2, between the means of the two sides
WAITING, WAITED_SECONDS = 0.5, 2.0
EXPLODED = 100.0  # times the gradient norm at the start
SKIPPED = 0.1  # share of updates
OVERFITTED, STALE = 0.85, 0.25  # of the best metric; of the steps so far without gain
FEWEST_EVALUATIONS = 3  # behind the best one
ROSE = 0.5  # of the way back to chance


def temperature(course: Course) -> Finding | None:
    """The logit scale at its ceiling, or lost."""
    model = course.recipe.model
    scales = course.values("logit_scale")
    if not model.logit_scale_learnable or not course.has_signs() or course.step < course.warmup_steps:
        return None
    share, began = course.mean("logit_scale_at_max", signs=True), course.first["logit_scale"]
    began_there = began >= 0.99 * model.logit_scale_max or course.first.get("logit_scale_at_max") == 1
    if share > AT_CLAMP and not began_there:  # a model such as CLIP's comes with its scale at the ceiling
        return Finding(
            "temperature_at_clamp",
            "warning",
            f"The logit scale was at its ceiling of {scales[-1]:.4g} in {100 * share:.0f} % of the last "
            f"{len(course.signs)} looks (it began at {began:.3g}).",
            share,
            AT_CLAMP,
            f"Look for what the scale makes up for: a learning rate too high for it, or pairs learnt by heart; else "
            f"raise model.logit_scale_max (now {model.logit_scale_max:g}).",
        )
    if max(scales) < COLLAPSED * began:
        high = course.largest_update >= LARGE_UPDATE
        steps = f", by steps that changed weights by up to {100 * course.largest_update:.3g} % of themselves"
        return Finding(
            "learning_rate_too_high" if high else "temperature_collapsed",
            "warning",
            f"The logit scale has fallen from {began:.3g} to {scales[-1]:.3g}{steps if high else ''}: all logits are "
            f"nearly equal.",
            scales[-1],
            COLLAPSED * began,
            "Lower optimizer.learning_rate, or hold the scale (model.logit_scale_learnable=false) until the towers "
            "learn.",
        )
    return None


def fixed_temperature(course: Course) -> Finding | None:
    """A scale that is not learnt and leaves the loss no room: ``ln(1 + (b - 1) exp(-2 s))`` at the very best."""
    recipe = course.recipe
    if recipe.model.logit_scale_learnable or recipe.loss.name != "info_nce" or not course.chance:
        return None
    scale, rows = course.first["logit_scale"], math.exp(course.chance)
    floor = math.log1p((rows - 1) * math.exp(-2 * scale))
    if floor < FLOOR * course.chance:
        return None
    return Finding(
        "temperature_fixed",
        "warning",
        f"With a logit scale of {scale:.3g}, which is not learnt, the loss cannot fall below {floor:.2f} (chance is "
        f"{course.chance:.2f}).",
        floor / course.chance,
        FLOOR,
        "Set model.logit_scale_learnable=true, or model.logit_scale=14.3.",
    )


def false_negatives(course: Course) -> Finding | None:
    """Rows of one group or caption that the loss pushes apart."""
    share = course.mean("false_negative_share", signs=True)
    if not course.has_signs() or not share >= FALSE_NEGATIVES:
        return None
    advice = "Give rows that share a caption one group (data.columns.group)."
    if not course.groups_count:
        positives = "batches.name=unique_groups keeps them out of one batch"
        pair = course.recipe.loss.positives == "pair"
        advice = f"Set loss.positives=group; {positives}." if pair else f"Note that {positives}; set it."
    return Finding(
        "false_negatives",
        "warning",
        f"{100 * share:.0f} % of a batch's rows meet a row of the same group or caption, which the loss takes for a "
        f"negative.",
        share,
        FALSE_NEGATIVES,
        advice,
    )


def dimensional_collapse(course: Course) -> Finding | None:
    """Embeddings that used few dimensions at every look since the model has learnt something, and no more each time.

    A model that leaves chance begins with few dimensions and takes further ones step by step.
    """
    looks = learnt_looks(course)
    if len(looks) < (2 if course.finished else FEWEST_LOOKS):
        return None
    for side, distinct in (("image", "distinct_images"), ("text", "distinct_captions")):
        rows = min(round(look.get(distinct, 1.0) * look["sign_rows"]) for look in looks)  # equal inputs lie together
        most = min(64, rows - 1, course.recipe.model.embedding_dim)
        ranks = [look[f"effective_rank_{side}"] for look in looks]
        threshold = max(PLANE if most >= 2 * FEWEST_DIMENSIONS else LINE, RANK * most)
        if most < FEWEST_DIMENSIONS or max(ranks) >= threshold or ranks[-1] > OPENING * ranks[0]:
            continue
        return Finding(
            "dimensional_collapse",
            "warning",
            f"The effective rank of {side} embeddings is {ranks[-1]:.1f} of {most} possible, and was no higher at the "
            f"last {len(looks)} looks.",
            ranks[-1],
            threshold,
            "Widen what the embeddings pass through (model.image.head, model.text.head), lower "
            "optimizer.learning_rate, or raise train.batch_size; loss.name=vicreg keeps dimensions apart by itself.",
        )
    return None


def modality_gap(course: Course) -> Finding | None:
    """Images and captions far from one another as two clouds."""
    looks = learnt_looks(course)
    gap = sum(look["modality_gap"] for look in looks) / max(1, len(looks))
    if len(looks) < FEWEST_LOOKS or gap < GAP:
        return None
    return Finding(
        "modality_gap",
        "note",
        f"The means of image and text embeddings are {gap:.2f} apart (2 is the most).",
        gap,
        GAP,
        "Search with queries of one side only, or start from a lower model.logit_scale, which closes the gap.",
    )


def slow_loader(course: Course) -> Finding | None:
    """More than half of the time goes into waiting for batches."""
    whole = course.waited + course.worked
    if course.waited < WAITED_SECONDS or (len(course.steps) < WINDOW and not course.finished):
        return None
    share = course.waited / whole
    if share <= WAITING:
        return None
    data = course.recipe.data
    return Finding(
        "slow_loader",
        "warning",
        f"{100 * share:.0f} % of the time ({course.waited:.0f} of {whole:.0f} s) went into waiting for batches.",
        share,
        WAITING,
        f"Read with more processes (data.workers, now {data.workers}) from smaller images on a local disk, decode no "
        f"larger than needed (data.decode, now {data.decode}), or freeze a tower, whose features are then kept.",
    )


def gradients(course: Course) -> Finding | None:
    """Gradients that grow without end, that a scaler leaves out, or that never reach a part."""
    norms = course.values("grad_norm")
    if len(course.early_grad_norms) == WINDOW and len(norms) == WINDOW:
        early, now = statistics.median(course.early_grad_norms), statistics.median(norms)
        if now > EXPLODED * max(early, 1.0):
            return Finding(
                "gradient_explodes",
                "warning",
                f"The gradient norm is {now:.3g}, {now / max(early, 1.0):.0f} times what it was at the start "
                f"({early:.3g}).",
                now / max(early, 1.0),
                EXPLODED,
                "Lower optimizer.learning_rate, lengthen schedule.warmup_steps, and keep train.max_grad_norm=1.0.",
            )
    return _left_out(course) or _vanished(course)


def _left_out(course: Course) -> Finding | None:
    skipped = course.steps[-1].get("skipped_updates", 0) if course.steps else 0
    if course.step < 50 or skipped / course.step <= SKIPPED:
        return None
    return Finding(
        "not_a_number",
        "warning",
        f"{skipped} of {course.step} updates were left out, because gradients in fp16 were not finite.",
        skipped / course.step,
        SKIPPED,
        "Set train.precision=bf16 (or fp32).",
    )


def _vanished(course: Course) -> Finding | None:
    if not course.has_signs():
        return None
    for part in ("image_tower", "image_head", "text_tower", "text_head"):
        norms = course.values(f"grad_norm/{part}", signs=True)
        if len(norms) == len(course.signs) and max(norms) == 0:
            return Finding(
                "gradient_vanishes",
                "warning",
                f"The {part.replace('_', ' ')} has weights to train, and its gradient was 0 at the last {len(norms)} "
                f"looks.",
                0.0,
                0.0,
                f"Examine what comes out of it (mmcl doctor {course.recipe.run_dir}), or lower "
                f"optimizer.learning_rate: a part that a step too large has silenced gets no gradient.",
            )
    return None


def loss_rose(course: Course) -> Finding | None:
    """A model that had learnt something and lost it again."""
    if course.chance is None or len(course.steps) < WINDOW or course.recipe.loss.hardness_schedule != "constant":
        return None
    level, learnt = course.mean("loss"), course.chance - course.lowest
    if learnt < 0.1 * course.chance or level < course.lowest + ROSE * learnt:
        return None
    high = course.largest_update >= LARGE_UPDATE
    return Finding(
        "learning_rate_too_high" if high else "unstable_loss",
        "warning",
        f"The loss had fallen to {course.lowest:.2f} at step {course.lowest_step} and is back at {level:.2f} (chance "
        f"is {course.chance:.2f}).",
        level,
        course.lowest + ROSE * learnt,
        f"Lower optimizer.learning_rate (now {course.recipe.optimizer.learning_rate:g}) or lengthen "
        f"schedule.warmup_steps (now {course.warmup_steps}).",
    )


def overfitting(course: Course) -> Finding | None:
    """The best evaluation is long ago, later ones are worse, and the training loss still falls."""
    section, evaluations = course.recipe.evaluate, course.evaluations
    if len(evaluations) <= FEWEST_EVALUATIONS or section.mode != "max" or not has_learnt(course):
        return None  # what a model at chance scores goes up and down by luck
    best_at = max(range(len(evaluations)), key=lambda number: evaluations[number][1])
    step, best, loss_then = evaluations[best_at]
    since = evaluations[best_at + 1 :]
    now, loss = evaluations[-1][0], evaluations[-1][2]
    if len(since) < FEWEST_EVALUATIONS or now - step < STALE * now or best <= 0:
        return None
    value = sum(value for _, value, _ in since[-FEWEST_EVALUATIONS:]) / FEWEST_EVALUATIONS
    if value > OVERFITTED * best or not loss < 0.9 * loss_then:
        return None
    return Finding(
        "overfitting",
        "warning",
        f"{section.metric} was best at step {step} ({best:.3f}) and is {value:.3f} since, while the training loss fell "
        f"from {loss_then:.2f} to {loss:.2f}.",
        value / best,
        OVERFITTED,
        f"Stop there (evaluate.early_stopping={FEWEST_EVALUATIONS}; the model of step {step} is kept in any case), "
        f"freeze more, or raise optimizer.weight_decay, dropout of the heads and data.augment.",
    )
