"""Checks of the captions as text: whether they vary, and whether they are captions at all."""

from __future__ import annotations

import re
from collections import Counter

from mmcl.doctor.examination.pairing import AGREEMENT, agreements
from mmcl.doctor.examination.subject import Subject
from mmcl.doctor.finding import Finding

FEW = 0.1  # distinct captions, as a share of rows
NO_TEXT = 0.5  # share of captions that are ids or numbers
RICHER = 5.0  # times the distinct values of the captions that another column has
FEWEST_ROWS = 20

# A file's name, a number, a hash, or one word with digits in it: what ids look like.
_ID = re.compile(
    r"^(?:[^\s]+\.(?:jpe?g|png|webp|gif|bmp|tiff?)|[\d.,:/+-]+|[0-9a-f]{8,}(?:-[0-9a-f]{4,})*|\S*\d\S*)$", re.I
)


def looks_like_id(caption: str) -> bool:
    """Whether a caption is a file's name, a number, a hash, or one word with digits.

    Example:
        >>> looks_like_id("img_0042.png"), looks_like_id("17"), looks_like_id("a 3 legged dog")
        (True, True, False)
    """
    return bool(_ID.match(caption.strip())) or not any(letter.isalnum() for letter in caption)


def no_texts(subject: Subject) -> list[Finding]:
    """Ids, numbers or class names in the place of captions."""
    sample = subject.train
    if sample is None or len(sample) < FEWEST_ROWS:
        return []
    share = sum(map(looks_like_id, sample.texts)) / len(sample)
    others = ", ".join(f"{name} ({count:,} distinct)" for name, count in _by_size(subject))
    column = subject.recipe.data.columns.text
    advice = f"Set data.columns.text to the column with the captions ({others or 'mmcl data inspect shows them'})."
    if share >= NO_TEXT:
        shown = ", ".join(repr(text[:40]) for text in sample.texts[:3])
        text = f"{100 * share:.0f} % of the captions are ids or numbers, such as {shown}"
        text += f" (data.columns.text={column})." if column else "."
        return [Finding("captions_are_no_texts", "fault", text, share, NO_TEXT, advice)]
    return _class_names(subject, advice)


def _class_names(subject: Subject, advice: str) -> list[Finding]:
    columns = subject.recipe.data.columns
    if columns.text is not None and columns.text == columns.label:
        return []  # class names were asked for, as in FLYP
    distinct, richer = _distinct(subject), dict(_by_size(subject))
    name = max(richer, key=lambda key: richer[key], default=None)
    if distinct > FEW * subject.rows or name is None or richer[name] < RICHER * distinct:
        return []
    return [
        Finding(
            "captions_are_no_texts",
            "warning",
            f"The {subject.rows:,} training rows have {distinct:,} distinct captions, as class names do "
            f"({subject.train.texts[0][:40]!r}), while the column {name} has {richer[name]:,} distinct texts.",
            distinct / subject.rows,
            FEW,
            advice,
        )
    ]


def _by_size(subject: Subject) -> list[tuple[str, int]]:
    return sorted(subject.columns.items(), key=lambda item: -item[1])[:3]


def _distinct(subject: Subject) -> int:
    return len(set(subject.train.texts)) if subject.captions is None else subject.captions


def variety(subject: Subject) -> list[Finding]:
    """One caption for all, or so few that they tell nothing of their images."""
    sample = subject.train
    if sample is None or len(sample) < FEWEST_ROWS:
        return []
    distinct, rows = _distinct(subject), max(subject.rows, len(sample))
    most, times = Counter(sample.texts).most_common(1)[0]
    what = f"The {rows:,} training rows have {distinct:,} distinct caption{'s' if distinct > 1 else ''}"
    usual = f"{most[:60]!r} stands beside {100 * times / len(sample):.0f} % of them"
    advice = "Look at the captions (mmcl data inspect) and at data.columns.text, which names their column."
    if distinct <= 1 or times >= 0.95 * len(sample):
        return [Finding("captions_do_not_vary", "fault", f"{what}; {usual}.", distinct / rows, FEW, advice)]
    if distinct > FEW * rows or distinct > 0.5 * subject.recipe.train.batch_size * max(1, subject.batches):
        return []
    if subject.has_learnt or any(one.p_value <= AGREEMENT for one in agreements(sample)):
        text = f"{what}: they are learnt like classes."
        return [Finding("captions_do_not_vary", "note", text, distinct / rows, FEW, "Judge by zero-shot accuracy.")]
    return [Finding("captions_do_not_vary", "fault", f"{what}, {usual}.", distinct / rows, FEW, advice)]
