"""What one split knows of another: images, captions and groups on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from mmcl.data.audit.audited import Audited, Leak
from mmcl.data.audit.check import Action, Check, Found, Severity
from mmcl.data.audit.checks.duplicates import twin_lists
from mmcl.data.audit.checks.phrases import kin_counts

_MOST_RELATED = 10  # rows that are named beside one; all are counted


def _ordered(audited: Audited) -> Iterator[tuple[int, int]]:
    """(seen, held out) for every two splits: training is seen, the test split is held out."""
    for one, other in combinations(range(len(audited.names)), 2):
        yield (one, other) if audited.ranks[one] <= audited.ranks[other] else (other, one)


def _shared_codes(audited: Audited, codes: np.ndarray, rows: np.ndarray, splits: tuple[int, int]) -> np.ndarray:
    """(p, 2) (row of the held-out split, row of the seen one) with equal codes; codes below 0 match nothing.

    Of the held-out rows of one code the first few stand for all in the pairs of each seen row.
    """
    seen, held_out = splits
    of = audited.split_of(rows)
    left = np.flatnonzero((of == held_out) & (codes >= 0))
    right = np.flatnonzero((of == seen) & (codes >= 0))
    left = left[np.argsort(codes[left], kind="stable")]
    begin = np.searchsorted(codes[left], codes[right], side="left")
    number = np.minimum(np.searchsorted(codes[left], codes[right], side="right") - begin, _MOST_RELATED)
    place = np.repeat(begin, number) + np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    return np.unique(np.stack([rows[left[place]], np.repeat(rows[right], number)], axis=1), axis=0)


def _held_out_rows(audited: Audited, codes: np.ndarray, rows: np.ndarray, splits: tuple[int, int]) -> np.ndarray:
    """All rows of the held-out split whose code the seen split has too."""
    seen, held_out = splits
    of = audited.split_of(rows)
    known = np.unique(codes[(of == seen) & (codes >= 0)])
    return np.unique(rows[(of == held_out) & (codes >= 0) & np.isin(codes, known)])


def _note(audited: Audited, splits: tuple[int, int], by: str, rows: np.ndarray) -> None:
    """Keep a leak for the report."""
    if len(rows):
        seen, held_out = splits
        number = len(audited.datasets[held_out])
        local = rows - audited.starts[held_out]
        audited.leaks.append(Leak(audited.names[held_out], audited.names[seen], by, local, len(rows) / number))


def _found(
    audited: Audited, pairs: np.ndarray, splits: tuple[int, int], what: str, **other: Severity | Action
) -> Found:
    rows, related, _ = twin_lists(pairs)
    return Found(rows, f"{what} {audited.names[splits[1]]}", related, **other)


def _image(audited: Audited) -> Iterator[Found]:
    twins, rows = audited.twins, np.arange(len(audited))
    # A pair of the first of equal images stands for all that equal them.
    for splits in _ordered(audited):
        pairs = _shared_codes(audited, twins.same, rows, splits)
        _note(audited, splits, "image", _held_out_rows(audited, twins.same, rows, splits))
        yield _found(audited, pairs, splits, "the same image is in")
        alike = _near_pairs(audited, splits)
        alike = alike[~np.isin(alike[:, 1], pairs[:, 1])]
        _note(audited, splits, "near image", np.setdiff1d(alike[:, 0], pairs[:, 0]))
        yield _found(audited, alike, splits, "nearly the same image is in")


def _near_pairs(audited: Audited, splits: tuple[int, int]) -> np.ndarray:
    """(p, 2) (held-out row, seen row) that look the same, those with equal bytes included on each side."""
    twins = audited.twins
    seen, held_out = splits
    of = audited.split_of(np.arange(len(audited)))
    order = np.argsort(twins.same, kind="stable")
    sorted_same = twins.same[order]
    found = []
    for one, other in twins.pairs:
        members = [
            order[slice(*np.searchsorted(sorted_same, [twins.same[row], twins.same[row] + 1]))] for row in (one, other)
        ]
        for left, right in (members, members[::-1]):
            left, right = left[of[left] == held_out], right[of[right] == seen]
            if len(left) and len(right):
                found.append(np.stack(np.meshgrid(left[:_MOST_RELATED], right), axis=-1).reshape(-1, 2))
    return np.unique(np.concatenate([np.zeros((0, 2), dtype=np.int64), *found]), axis=0)


def _caption(audited: Audited) -> Iterator[Found]:
    captions = audited.captions
    codes = captions.codes.astype(np.int64)
    generic = kin_counts(audited) > audited.limits.generic_rows
    particular = np.where(generic[codes], -1, codes)
    for splits in _ordered(audited):
        _note(audited, splits, "caption", _held_out_rows(audited, codes, captions.rows, splits))
        pairs = _shared_codes(audited, particular, captions.rows, splits)
        yield _found(audited, pairs, splits, "one of its captions is in")
        general = _shared_codes(audited, np.where(generic[codes], codes, -1), captions.rows, splits)
        general = general[~np.isin(general[:, 1], pairs[:, 1])]
        yield _found(audited, general, splits, "a common caption is in", severity="note", action="keep")


def _group(audited: Audited) -> Iterator[Found]:
    groups, rows = audited.groups, np.arange(len(audited))
    for splits in _ordered(audited):
        _note(audited, splits, "group", _held_out_rows(audited, groups, rows, splits))
        yield _found(audited, _shared_codes(audited, groups, rows, splits), splits, "its group is in")


LEAKED_IMAGE = Check(
    "leaked_image", "error", "drop",
    "Images of one split that another has too, exactly or nearly (as near_duplicate_image has it): a result on the "
    "held-out split is then partly memory. The training side is named, and left out of a cleaned copy; test is kept.",
    _image, "pixels",
)  # fmt: skip

LEAKED_CAPTION = Check(
    "leaked_caption", "warning", "look",
    "Captions of one split that another has too, but for case, blanks and a final full stop. Those of more than "
    "generic_rows unrelated rows or groups are notes: what everybody says gives nothing away.",
    _caption,
)  # fmt: skip

LEAKED_GROUP = Check(
    "leaked_group", "error", "drop",
    "Groups with rows in several splits, although a group says what belongs together. The training side is named, and "
    "left out of a cleaned copy.",
    _group,
)  # fmt: skip
