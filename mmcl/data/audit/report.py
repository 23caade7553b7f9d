"""`AuditReport`: what an audit found, as a table and as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.audit.audited import Leak
from mmcl.data.audit.check import SEVERITIES, Check

_RELATED = pa.struct({"split": pa.string(), "row": pa.int64(), "place": pa.string()})
FINDINGS = pa.schema(
    {
        "split": pa.string(),
        "row": pa.int64(),
        "id": pa.string(),
        "place": pa.string(),
        "check": pa.string(),
        "severity": pa.string(),
        "detail": pa.string(),
        "related": pa.list_(_RELATED),
        "action": pa.string(),
    }
)
LEAKED_ROWS_LISTED = 1000  # of each pair of splits, in the JSON


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        data: the name of the data.
        rows: split -> its number of rows.
        findings: one row a finding, with the columns of ``FINDINGS``. ``row`` counts in its split; it is null for rows
            that the reader left out.
        leaks: how much of a split is known from another.
        checks: those that were made, in the order of the report.
        not_run: check -> why it could not be made.
        figures: what was compared and scanned.
    """

    data: str
    rows: dict[str | None, int]
    findings: pa.Table
    leaks: Sequence[Leak]
    checks: Sequence[Check]
    not_run: dict[str, str] = field(default_factory=dict)
    figures: dict[str, int] = field(default_factory=dict)

    def count(self, severity: str, check: str | None = None) -> int:
        """Findings of a severity, of one check or of all."""
        mask = pc.equal(self.findings["severity"], severity)
        if check is not None:
            mask = pc.and_(mask, pc.equal(self.findings["check"], check))
        return pc.sum(mask).as_py() or 0

    def of(self, check: str, severity: str | None = None) -> pa.Table:
        """The findings of one check."""
        mask = pc.equal(self.findings["check"], check)
        if severity is not None:
            mask = pc.and_(mask, pc.equal(self.findings["severity"], severity))
        return self.findings.filter(mask)

    def flagged(self, severities: Sequence[str] = ("error", "warning")) -> dict[str | None, np.ndarray]:
        """Split -> the rows that have a finding of these severities, ascending."""
        return self._rows_where(pc.is_in(self.findings["severity"], pa.array(list(severities), pa.string())))

    def to_drop(self) -> dict[str | None, np.ndarray]:
        """Split -> the rows that a cleaned copy leaves out, ascending."""
        return self._rows_where(pc.equal(self.findings["action"], "drop"))

    def _rows_where(self, mask: pa.ChunkedArray) -> dict[str | None, np.ndarray]:
        mask = pc.and_(mask, pc.is_valid(self.findings["row"]))
        chosen = self.findings.select(["split", "row"]).filter(mask)
        found: dict[str | None, np.ndarray] = {}
        for split in self.rows:
            own = (
                pc.is_null(chosen["split"]) if split is None else pc.fill_null(pc.equal(chosen["split"], split), False)
            )
            found[split] = np.unique(chosen["row"].filter(own).to_numpy())
        return found

    def summary(self) -> dict[str, Any]:
        """What ``--json`` writes: counts, shares and leaks, without the single findings."""
        rows = sum(self.rows.values())
        flagged = sum(len(part) for part in self.flagged().values())
        return {
            "data": self.data,
            "rows": {split or "all": number for split, number in self.rows.items()},
            "findings": {name: self.count(name) for name in SEVERITIES},
            "flagged_rows": flagged,
            "flagged_share": flagged / rows if rows else 0.0,
            "rows_to_drop": {split or "all": len(part) for split, part in self.to_drop().items()},
            "checks": {check.name: self._counts(check) for check in self.checks},
            "not_run": self.not_run,
            "leaks": [_leak(leak) for leak in self.leaks],
            **self.figures,
        }

    def _counts(self, check: Check) -> dict[str, int]:
        return {name: number for name in SEVERITIES if (number := self.count(name, check.name))}


def _leak(leak: Leak) -> dict[str, Any]:
    return {
        "split": leak.held_out,
        "known_from": leak.seen,
        "by": leak.by,
        "rows": len(leak.rows),
        "share": leak.share,
        "listed": leak.rows[:LEAKED_ROWS_LISTED].tolist(),
    }
