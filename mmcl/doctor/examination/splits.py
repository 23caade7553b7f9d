"""Checks of training against validation: what one gives away of the other, and what was learnt by heart."""

from __future__ import annotations

import math

from mmcl.doctor.examination.agreement import Fit, fit_of
from mmcl.doctor.examination.subject import Sample, Subject
from mmcl.doctor.finding import Finding

LEAK = 0.05  # share of the validation rows
BY_HEART, NOT_CARRIED = 0.7, 0.12  # recall of training rows; what of it carries over, as a share
FEW_ROWS = 200
SMALL_SPLIT, INTERVAL = 50, 0.15  # validation rows; half width of a 95 % interval of a share


def leak(subject: Subject) -> list[Finding]:
    """Validation rows whose group, image (or one nearly like it) or own caption is among the training rows."""
    if not subject.validation_rows or not subject.leaks:
        return []
    worst = max(subject.leaks, key=lambda found: found.rows)
    share = worst.rows / subject.validation_rows
    if share < LEAK:
        return []
    about = "About " if worst.is_estimate else ""
    like = "an image nearly like that" if worst.kind == "near image" else f"the {worst.kind}"
    example = f" (such as {worst.example})" if worst.example else ""
    return [
        Finding(
            "split_leak",
            "warning" if share < 0.5 else "fault",
            f"{about}{worst.rows:,} of {subject.validation_rows:,} validation rows ({100 * share:.0f} %) have {like} "
            f"of a training row{example}, so that the validation metrics say little of new pairs.",
            share,
            LEAK,
            f"List them (mmcl data audit {subject.recipe.data.path}), and split anew by group and like images: mmcl "
            f"data split {subject.recipe.data.path}.",
        )
    ]


def overfitting(subject: Subject) -> list[Finding]:
    """Partners found among training rows, and hardly among validation rows."""
    train, validation = subject.train, subject.validation
    if train is None or validation is None or train.fit is None or validation.fit is None:
        return []
    rows = min(len(train), len(validation))
    if rows < 10:
        return []
    known, held = (_first(sample, rows) for sample in (train, validation))
    gain = max(0.0, held.recall - held.chance) / max(1e-9, known.recall - known.chance)
    if known.recall < BY_HEART or gain > 0.7:
        return []
    severe = gain < NOT_CARRIED
    text = (
        f"Among {rows:,} candidates {100 * known.recall:.0f} % of the training images find their caption first, and "
        f"{100 * held.recall:.0f} % of the validation images (chance {100 * held.chance:.1f} %)."
    )
    advice = (
        "Stop earlier (evaluate.early_stopping=3, train.epochs), freeze the towers (model.image.freeze=true, "
        "model.text.freeze=true), set data.augment and dropout of the heads, or add rows."
    )
    return [Finding("overfitting", "warning" if severe else "note", text, gain, NOT_CARRIED, advice)]


def _first(sample: Sample, rows: int) -> Fit:
    return fit_of(sample.image[:rows] @ sample.text[:rows].T, sample.groups[:rows])


def sizes(subject: Subject) -> list[Finding]:
    """Few training rows, or a validation split whose metric is mostly luck."""
    found = []
    if 0 < subject.rows < FEW_ROWS:
        text = f"There are {subject.rows:,} training rows."
        advice = "Start from pretrained towers that stay frozen (model.image.freeze=true, model.text.freeze=true)."
        found.append(Finding("too_few_rows", "note", text, subject.rows, FEW_ROWS, advice))
    rows = subject.validation_rows
    if rows:
        width = half_width(rows)
        if rows < SMALL_SPLIT or width > INTERVAL:
            text = (
                f"The validation split has {rows:,} rows: a recall of 50 % measured on it is uncertain by "
                f"{100 * width:.0f} points either way."
            )
            advice = "Give it more rows (mmcl data split, or data.holdout_share), or compare runs over several seeds."
            found.append(Finding("validation_too_small", "note", text, rows, SMALL_SPLIT, advice))
    return found


def half_width(rows: int) -> float:
    """Half the 95 % interval of a share near one half, measured on so many rows.

    Example:
        >>> round(half_width(100), 3)
        0.098
    """
    return 1.96 * math.sqrt(0.25 / rows)
