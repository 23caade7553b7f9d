"""`Check`: one thing the audit looks for; `Found`: rows it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from mmcl.data.audit.audited import Audited

Severity = Literal["error", "warning", "note"]
Action = Literal["drop", "keep", "look"]
Need = Literal["rows", "pixels", "model"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Found:
    """Rows that a check found.

    Attributes:
        rows: (k,) int64, numbered through all splits.
        details: what was found of each, or one text for all.
        related: for each the rows it is alike, numbered through all splits; None for none.
        severity, action: where they differ from the check's own.
    """

    rows: np.ndarray
    details: Sequence[str] | str
    related: Sequence[Sequence[int]] | None = None
    severity: Severity | None = None
    action: Action | None = None

    def detail(self, index: int) -> str:
        """What was found of the row at this place in ``rows``."""
        return self.details if isinstance(self.details, str) else self.details[index]


@dataclass(frozen=True)
class Check:
    """One thing the audit looks for.

    Attributes:
        name: as commands and lists have it.
        severity: "error": training or evaluation goes wrong; "warning": it may; "note": good to know.
        action: what becomes of a found row: "drop" (a cleaned copy leaves it out), "look" (a person should), "keep".
        explanation: what it means, and from where on something is found.
        find: the rows.
        need: what it needs beside the table: "rows" nothing, "pixels" images that can be read, "model" an embedder.
    """

    name: str
    severity: Severity
    action: Action
    explanation: str
    find: Callable[[Audited], Iterator[Found]]
    need: Need = "rows"
