"""The rule of a run that does not learn: its loss at chance, and the causes that the signs tell apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mmcl.doctor.finding import Finding
from mmcl.doctor.live.course import Course

STUCK_AFTER = 200  # steps behind the warm-up before a run may be called stuck
STUCK_AT_THE_END = 30  # the same where the run is over
AT_CHANCE, HAS_LEARNT = 0.98, 0.8  # shares of the chance loss
LUCK = 2.0  # times the recall of guessing
NO_GRADIENT = 1e-12
ALIKE = 0.99  # mean cosine of embeddings that are one
LARGE_UPDATE = 0.1  # a step that changes weights by this share of themselves; sound ones change a hundredth
MOVED_FAR, HARDLY_MOVED = 2.0, 0.01  # of the weights at the start
FEW_CAPTIONS = 0.5  # distinct captions, as a share of the rows


def is_at_chance(course: Course) -> bool:
    """Whether the newest lines show a model that cannot tell pairs apart."""
    if course.chance is not None and course.mean("loss") < AT_CHANCE * course.chance:
        return False
    recalls = course.values("batch_recall@1", signs=True)
    if not recalls:
        return course.chance is not None
    return sum(recalls) / len(recalls) <= LUCK / course.mean("sign_rows", signs=True)


def has_learnt(course: Course) -> bool:
    """Whether the newest lines show a model well above chance."""
    if course.chance is not None:
        return course.mean("loss") < HAS_LEARNT * course.chance
    return course.mean("batch_recall@1", signs=True) > 3 * LUCK / course.mean("sign_rows", signs=True)


def learnt_looks(course: Course) -> list[Mapping[str, Any]]:
    """The newest looks at a model that was well above chance, oldest first; empty where the newest is not one.

    A look counts by its own step: looks lie further apart than lines, so that the lines may show a model that has
    learnt while most of the looks are from before that.
    """
    looks: list[Mapping[str, Any]] = []
    for look in reversed(course.signs):
        if look.get("chance_loss") is not None:
            learnt = look["loss"] is not None and look["loss"] < HAS_LEARNT * look["chance_loss"]
        else:
            learnt = look.get("batch_recall@1", 0.0) > 3 * LUCK / look["sign_rows"]
        if not learnt:
            break
        looks.append(look)
    return looks[::-1]


def is_stuck(course: Course) -> bool:
    """Whether it is late enough to call a run at chance stuck, and it is."""
    needed = STUCK_AT_THE_END if course.finished else STUCK_AFTER
    return course.step >= course.warmup_steps + needed and is_at_chance(course)


def nothing_trains(course: Course) -> Finding | None:
    """No gradient reaches an encoder, whatever the loss is."""
    if not course.has_signs():
        return None
    largest = max(
        (value for part in ("image", "text") for end in ("tower", "head")
         for value in course.values(f"grad_norm/{part}_{end}", signs=True)),
        default=0.0,
    )  # fmt: skip
    if largest > NO_GRADIENT:
        return None
    return Finding(
        "nothing_trains",
        "fault",
        f"The gradient of both encoders was {largest:.1g} at the last {len(course.signs)} looks: no tower and no head "
        f"learns.",
        largest,
        NO_GRADIENT,
        "Thaw a tower (model.image.freeze=false, model.text.freeze=false) or give the model heads "
        "(model.image.head.name=linear).",
    )


def inputs_do_not_vary(course: Course) -> Finding | None:
    """Every row of a batch brings the same caption, or the same image."""
    if not course.has_signs(2):
        return None
    for cause, sign, what, key in (
        ("captions_do_not_vary", "distinct_captions", "caption", "text"),
        ("images_do_not_vary", "distinct_images", "image", "image"),
    ):
        counts = [r[sign] * r["batch_rows"] for r in course.signs if sign in r and r.get("batch_rows", 0) > 2]
        if len(counts) >= 2 and max(counts) < 1.5:
            return Finding(
                cause,
                "fault",
                f"All rows of a batch had one and the same {what} at the last {len(counts)} looks.",
                1.0,
                1.0,
                f"Look at the {what}s (mmcl data inspect) and at data.columns.{key}, which names their column.",
            )
    return None


def stuck(course: Course) -> Finding | None:
    """The loss is at chance: why, as far as the signs tell.

    Small models may rest at chance, all embeddings alike, for a hundred steps before they learn: a run that ends so
    soon, and shows no other cause, gets a note.
    """
    if not is_stuck(course):
        return None
    finding = next(filter(None, (cause(course) for cause in STUCK_CAUSES)))
    if course.step >= course.warmup_steps + STUCK_AFTER or finding.cause not in _MAY_PASS:
        return finding
    return dataclasses.replace(finding, severity="note", next_step="Train longer before judging: raise train.epochs.")


def _evidence(course: Course) -> str:
    recalls = course.values("batch_recall@1", signs=True)
    hits = f" and {100 * sum(recalls) / len(recalls):.1f} % of a batch's pairs are found" if recalls else ""
    if course.chance is None:
        return f"After {course.step} steps the loss is {course.mean('loss'):.3g}{hits}"
    return (
        f"After {course.step} steps the loss is {course.mean('loss'):.2f}, no better than chance "
        f"({course.chance:.2f}){hits}"
    )


def _captions_repeat(course: Course) -> Finding | None:
    distinct = course.mean("distinct_captions", signs=True)
    if not distinct <= FEW_CAPTIONS:
        return None
    return Finding(
        "captions_do_not_vary",
        "fault",
        f"{_evidence(course)}; only {100 * distinct:.0f} % of a batch's captions are distinct.",
        distinct,
        FEW_CAPTIONS,
        "Look at the captions (mmcl data inspect) and at data.columns.text; images that share a caption need captions "
        "that tell them apart.",
    )


def _rate_too_high(course: Course) -> Finding | None:
    moved = course.mean("weights_moved")
    if not (course.largest_update >= LARGE_UPDATE or moved >= MOVED_FAR):
        return None
    by_step = course.largest_update >= LARGE_UPDATE
    return Finding(
        "learning_rate_too_high",
        "fault",
        f"{_evidence(course)}; one step changed the weights by up to {100 * course.largest_update:.3g} % of themselves,"
        f" and they are {100 * moved:.3g} % away from where they began.",
        course.largest_update if by_step else moved,
        LARGE_UPDATE if by_step else MOVED_FAR,
        f"Set optimizer.learning_rate={course.recipe.optimizer.learning_rate / 30:.1g}.",
    )


def _rate_too_low(course: Course) -> Finding | None:
    moved = course.mean("weights_moved")
    if not moved < HARDLY_MOVED:
        return None
    return Finding(
        "learning_rate_too_low",
        "fault",
        f"{_evidence(course)}; the weights are only {100 * moved:.2g} % away from where they began.",
        moved,
        HARDLY_MOVED,
        f"Set optimizer.learning_rate={course.recipe.optimizer.learning_rate * 30:.1g}.",
    )


def _embeddings_alike(course: Course) -> Finding | None:
    cosines = {side: course.mean(f"mean_cosine_{side}", signs=True) for side in ("image", "text")}
    side = max(cosines, key=lambda name: cosines[name])
    if not cosines[side] >= ALIKE:
        return None
    return Finding(
        "constant_embeddings",
        "fault",
        f"{_evidence(course)}; the mean cosine of two different {side} embeddings is {cosines[side]:.4f}.",
        cosines[side],
        ALIKE,
        f"Examine what the {side} tower is given and makes of it: mmcl doctor {course.recipe.run_dir}.",
    )


def _unknown(course: Course) -> Finding:
    level = course.mean("loss")
    return Finding(
        "stuck_at_chance",
        "fault",
        f"{_evidence(course)}, though gradients flow and weights move.",
        level,
        level if course.chance is None else AT_CHANCE * course.chance,
        f"Have pairs, pixels and tokens examined: mmcl doctor {course.recipe.run_dir}.",
    )


_MAY_PASS = ("constant_embeddings", "stuck_at_chance")
# Why a run may be stuck; the first whose signs are there is told.
STUCK_CAUSES: tuple[Callable[[Course], Finding | None], ...] = (
    _captions_repeat,
    _rate_too_high,
    _rate_too_low,
    _embeddings_alike,
    _unknown,
)
