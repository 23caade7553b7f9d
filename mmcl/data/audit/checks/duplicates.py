"""Images that a split has several times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found
from mmcl.data.audit.checks.rows import repeated


def twin_lists(pairs: np.ndarray) -> tuple[np.ndarray, list[list[int]], np.ndarray]:
    """The second rows of pairs, for each all its first rows, and the place of one of its pairs."""
    order = np.lexsort((pairs[:, 0], pairs[:, 1]))
    rows, starts = np.unique(pairs[order, 1], return_index=True)
    firsts = np.split(pairs[order, 0], starts[1:])
    return rows, [part.tolist() for part in firsts] if len(rows) else [], order[starts]


def _within_splits(audited: Audited) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose image an earlier row of the split has in all bytes or pixels, and those earlier rows."""
    twins, splits = audited.twins, audited.split_of(np.arange(len(audited)))
    own = np.where(twins.same >= 0, twins.same * len(audited.names) + splits, -1)
    rows, first = repeated(own)
    equal = twins.pairs[twins.difference == 0]
    equal = equal[splits[equal[:, 0]] == splits[equal[:, 1]]]
    rows, first = np.concatenate([rows, equal[:, 1]]), np.concatenate([first, equal[:, 0]])
    rows, place = np.unique(rows, return_index=True)
    return rows, first[place]


def _one_group(audited: Audited, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (audited.groups[rows] >= 0) & (audited.groups[rows] == audited.groups[others])


def _duplicate(audited: Audited) -> Iterator[Found]:
    rows, first = _within_splits(audited)
    others_captions = np.array([_other_captions(audited, *pair) for pair in zip(rows, first)], dtype=bool)
    views = _one_group(audited, rows, first) & others_captions if len(rows) else np.zeros(0, dtype=bool)
    yield Found(rows[~views], "an earlier row of its split shows the same", [[int(row)] for row in first[~views]])
    # A table with a row for every caption: nothing may be dropped there, a caption would be lost.
    yield Found(
        rows[views], "an earlier row of its group shows the same, with other captions; one row may hold them all",
        [[int(row)] for row in first[views]], severity="note", action="keep",
    )  # fmt: skip


def _other_captions(audited: Audited, row: int, first: int) -> bool:
    (data, number), (other_data, other) = audited.local(row), audited.local(first)
    return not set(data.texts(number)) <= set(other_data.texts(other))


def _near(audited: Audited) -> Iterator[Found]:
    twins = audited.twins
    splits = audited.split_of(twins.pairs)
    wanted = (twins.difference > 0) & (splits[:, 0] == splits[:, 1])
    pairs, difference = twins.pairs[wanted], twins.difference[wanted]
    alike = _one_group(audited, pairs[:, 0], pairs[:, 1])
    for chosen, severity, action in ((~alike, None, None), (alike, "note", "keep")):
        rows, related, places = twin_lists(pairs[chosen])
        details = [f"difference {value:.3f} after alignment" for value in difference[chosen][places]]
        yield Found(rows, details, related, severity=severity, action=action)


def _in_groups(audited: Audited) -> Iterator[Found]:
    rows, first = _within_splits(audited)
    groups = audited.groups
    apart = (groups[rows] >= 0) & (groups[first] >= 0) & (groups[rows] != groups[first])
    yield Found(rows[apart], "an earlier row with this image is of another group", [[int(row)] for row in first[apart]])


DUPLICATE_IMAGE = Check(
    "duplicate_image", "warning", "drop",
    "Images that an earlier row of the split has too, in all bytes or in all pixels. In a batch, each is a wrong "
    "answer to the other. A cleaned copy keeps the first.",
    _duplicate, "pixels",
)  # fmt: skip

NEAR_DUPLICATE = Check(
    "near_duplicate_image", "warning", "look",
    "Images that show the same as an earlier one of the split, resized, cropped a little, brighter or compressed anew: "
    "perceptual hashes within near_bits bits and, laid over one another, nowhere more apart than near_difference.",
    _near, "pixels",
)  # fmt: skip

SAME_IMAGE_IN_GROUPS = Check(
    "image_in_several_groups", "note", "look",
    "Images that rows of different groups share: the groups say that they do not belong together, the image that they "
    "do.",
    _in_groups, "pixels",
)  # fmt: skip
