"""Checks of the batches and the scale: negatives that are none, batches too small, a scale that does not fit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmcl.doctor.examination.subject import Subject
from mmcl.doctor.finding import Finding
from mmcl.doctor.live.vital_signs import loss_counts_groups

FALSE_NEGATIVES = 0.2  # share of a batch's rows
SMALL, TINY = 8, 4  # rows of a batch
LOW_SCALE, AT_CLAMP = 3.0, 0.99  # of the factor from scores to logits; share of its ceiling


def false_negatives(subject: Subject) -> list[Finding]:
    """Rows that meet another with their caption or group in a batch, and take it for a negative."""
    recipe, sample = subject.recipe, subject.train
    if sample is None or not subject.rows or recipe.batches.name == "unique_groups":
        return []
    counts = loss_counts_groups(recipe.loss)
    share = meeting_share(
        sample.texts, sample.groups, rows=subject.rows, batch=recipe.train.batch_size, groups_count=counts
    )
    if share < FALSE_NEGATIVES:
        return []
    if counts:
        advice = "Give rows with one caption one group (data.columns.group), or set batches.name=unique_groups."
    elif recipe.loss.positives == "pair":
        advice = "Set loss.positives=group, or batches.name=unique_groups."
    else:
        advice = "Set batches.name=unique_groups, or a loss that knows groups (loss.name=info_nce)."
    return [
        Finding(
            "false_negatives",
            "warning",
            f"In a batch of {recipe.train.batch_size} about {100 * share:.0f} % of the rows meet another with their "
            f"{'caption' if counts else 'caption or group'}, which the loss takes for a negative.",
            share,
            FALSE_NEGATIVES,
            advice,
        )
    ]


def meeting_share(texts: Sequence[str], groups: np.ndarray, *, rows: int, batch: int, groups_count: bool) -> float:
    """Share of a random batch's rows that meet a wrong negative.

    Args:
        texts: captions of n rows drawn from the split.
        groups: (n,) integer.
        rows: of the whole split.
        batch: rows of a batch.
        groups_count: whether the loss takes rows of one group for positives: only captions that several groups have
            count then.

    Returns:
        In [0, 1].

    Example:
        >>> round(meeting_share(["a", "a", "b", "c"], np.arange(4), rows=4, batch=4, groups_count=True), 2)
        0.5
    """
    number = len(texts)
    if number < 2 or batch < 2:
        return 0.0
    by_text, by_both = Counter(texts), Counter(zip(texts, groups.tolist()))
    by_group = Counter(groups.tolist())
    total = 0.0
    for text, group in zip(texts, groups.tolist()):
        twins = by_text[text] - by_both[text, group]
        if not groups_count:
            twins = by_text[text] + by_group[group] - by_both[text, group] - 1
        likely = min(1.0, twins / (number - 1))  # that another row of the split is one
        total += 1 - (1 - likely) ** (min(batch, rows) - 1)
    return total / number


def sizes(subject: Subject) -> list[Finding]:
    """Batches with too few negatives, or larger than the data."""
    recipe = subject.recipe
    batch, rows = recipe.train.batch_size, subject.rows
    if recipe.loss.name in ("barlow_twins", "vicreg", "triplet") and batch > TINY:
        return []
    size = min(batch, rows) if rows else batch
    if size < SMALL:
        return [
            Finding(
                "batch_too_small",
                "fault" if size <= TINY and not subject.has_learnt else "warning",
                f"A batch has {size} pairs: each is compared with {size - 1} negative{'s' if size > 2 else ''}, and "
                f"chance is right {100 / size:.0f} % of the time.",
                size,
                SMALL,
                "Raise train.batch_size to 64 or more; train.micro_batch_size keeps the memory as it is.",
            )
        ]
    if rows and batch > rows:
        text = f"train.batch_size is {batch:,} and there are {rows:,} training rows: every step takes them all."
        advice = f"Set train.batch_size={max(2, rows // 4)}."
        return [Finding("too_few_rows", "note", text, rows, batch, advice)]
    return []


def scale(subject: Subject) -> list[Finding]:
    """A scale that is not learnt, at a value that leaves the loss no room or nothing but hard decisions."""
    model = subject.recipe.model
    if model.init_from is not None or subject.recipe.loss.name not in ("info_nce", "sigmoid"):
        return []
    value, most = model.logit_scale, model.logit_scale_max
    if not model.logit_scale_learnable and (value <= LOW_SCALE or value >= 100 * AT_CLAMP):
        low = value <= LOW_SCALE
        batch = max(2, min(subject.recipe.train.batch_size, subject.rows or subject.recipe.train.batch_size))
        floor = math.log1p((batch - 1) * math.exp(-2 * value))
        why = f"the loss cannot fall below {floor:.2f}" if low else "one near negative outweighs all others"
        text = f"model.logit_scale is {value:g} and is not learnt (model.logit_scale_learnable=false): {why}."
        advice = "Set model.logit_scale_learnable=true and leave model.logit_scale out, or set it to 14.3."
        return [Finding("temperature_fixed", "warning", text, value, LOW_SCALE if low else 99.0, advice)]
    if model.logit_scale_learnable and value >= AT_CLAMP * most:
        text = f"The logit scale begins at {value:g}, its ceiling (model.logit_scale_max={most:g}): it can only fall."
        advice = "Leave model.logit_scale and model.logit_scale_max out (14.3 and 100)."
        return [Finding("temperature_at_clamp", "warning", text, value, AT_CLAMP * most, advice)]
    return []
