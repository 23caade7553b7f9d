"""Rows that cannot be used: listed once, counted over all processes, too many of them stop the run."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl.batch import SkippedRow
from mmcl.errors import DataError
from mmcl.logs import get_logger
from mmcl.training.runs import RunFolder

log = get_logger(__name__)

SHOWN = 3
FEWEST_SEEN = 100  # rows before a share of them says something


class SkipLedger:
    """The rows of a run that were left out.

    Args:
        run: lists them in ``skipped.jsonl``; rows it lists already are not listed again.
        dropped: rows that reading the table already left out.
        usable: rows that it kept.
        share: more than this share of all rows stops the run.

    Raises:
        DataError: ``dropped`` alone are too many.
    """

    def __init__(self, run: RunFolder, *, dropped: Sequence[SkippedRow], usable: int, share: float) -> None:
        self._run, self._share, self._dropped, self._usable = run, share, len(dropped), usable
        self._rows = {(row.row, row.source): row for row in run.read_skipped()}
        self.note(dropped, seen=usable)

    @property
    def rows(self) -> list[SkippedRow]:
        """Every row left out so far."""
        return list(self._rows.values())

    def note(self, rows: Sequence[SkippedRow], *, seen: int) -> None:
        """List rows that are new; the same rows must be noted on every process, of which the main one writes.

        Args:
            rows: rows that could not be used.
            seen: usable rows looked at so far; repeated epochs may count again.

        Raises:
            DataError: too many rows cannot be used.
        """
        new = {(row.row, row.source): row for row in rows if (row.row, row.source) not in self._rows}
        if not new:
            return
        self._rows |= new
        self._run.append_skipped(list(new.values()))
        for row in list(new.values())[:SHOWN]:
            log.warning("skipped %s: %s", row.source, row.reason)
        if len(new) > SHOWN:
            log.warning("and %d more, all listed in %s", len(new) - SHOWN, self._run.skipped)
        self._stop_if_too_many(seen)

    def _stop_if_too_many(self, seen: int) -> None:
        total = self._usable + self._dropped
        seen = min(total, max(seen + self._dropped, FEWEST_SEEN))
        if len(self._rows) <= self._share * seen:
            return
        first = "; ".join(f"{row.source}: {row.reason}" for row in self.rows[:SHOWN])
        part = f"{total} rows" if seen == total else f"first {seen} rows"
        raise DataError(
            f"{len(self._rows)} of the {part} cannot be used, more than data.max_skipped_share={self._share}; they are "
            f"listed in {self._run.skipped} ({first}); mend the data or raise the share"
        )
