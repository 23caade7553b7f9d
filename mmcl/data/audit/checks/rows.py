"""Ids that stand for several rows, and groups of far more rows than others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found

_TIMES_MEDIAN = 20


def repeated(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose code an earlier row has, and for each the first row that has it; a code below 0 counts for none."""
    rows = np.flatnonzero(codes >= 0)
    _, first, inverse = np.unique(codes[rows], return_index=True, return_inverse=True)
    later = rows != rows[first[inverse]]
    return rows[later], rows[first[inverse]][later]


def _duplicate_id(audited: Audited) -> Iterator[Found]:
    ids = audited.coded("id")
    splits = audited.split_of(np.arange(len(audited)))
    own = np.where(ids >= 0, ids * len(audited.names) + splits, -1)
    rows, first = repeated(own)
    yield Found(rows, "an earlier row of its split has the same id", [[int(row)] for row in first])


def _big_group(audited: Audited) -> Iterator[Found]:
    groups = audited.groups
    rows = np.flatnonzero(groups >= 0)
    if not len(rows):
        return
    _, first, counts = np.unique(groups[rows], return_index=True, return_counts=True)
    big = counts > max(audited.limits.group_rows, _TIMES_MEDIAN * np.median(counts))
    yield Found(rows[first[big]], [f"its group has {count:,} rows" for count in counts[big]])


DUPLICATE_ID = Check(
    "duplicate_id", "warning", "look",
    "Ids that several rows of a split have: results and lists that name rows by id mean either.",
    _duplicate_id,
)  # fmt: skip

BIG_GROUP = Check(
    "big_group", "warning", "look",
    "Groups of more rows than the threshold group_rows and than 20 times the median: often a missing value read as a "
    "name. All rows of a group count as right answers to one another.",
    _big_group,
)  # fmt: skip
