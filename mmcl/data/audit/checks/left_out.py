"""Rows that the reader could not use: they are no longer in the data set, and are found in its ``skipped``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found

NO_CAPTION = "no caption"  # the reader's reason


def _none(audited: Audited) -> Iterator[Found]:
    # ``findings_of_skipped`` makes these: they have no row among those that the other checks number.
    yield Found(np.zeros(0, dtype=np.int64), "")


LEFT_OUT = Check(
    "left_out", "error", "drop",
    "The reader could not use these rows: a broken line, a cell of a wrong type, no image named. They are left out of "
    "everything, training included.",
    _none,
)  # fmt: skip

EMPTY_CAPTION = Check(
    "empty_caption", "error", "drop",
    "Rows without a caption, or with blank ones alone. They are left out of everything, training included.",
    _none,
)  # fmt: skip
