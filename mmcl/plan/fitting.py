"""How memory grows with the batch: a line through what was measured, and the batch at which it meets a limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """``fixed + per_row * rows + per_row_squared * rows ** 2``, and never less than ``least``.

    Attributes:
        fixed, per_row, per_row_squared: bytes.
        least: bytes that are taken whatever the batch is, such as those of starting.
    """

    fixed: float
    per_row: float
    per_row_squared: float = 0.0
    least: float = 0.0

    def at(self, rows: float) -> float:
        """Bytes of a batch of so many rows."""
        return max(self.least, self.fixed + self.per_row * rows + self.per_row_squared * rows**2)

    def largest(self, limit: float) -> int | None:
        """The largest batch that takes at most ``limit`` bytes; 0 where none does, None where all do."""
        if self.at(0) > limit:
            return 0
        left = limit - self.fixed
        if self.per_row_squared > 0:
            root = math.sqrt(self.per_row**2 + 4 * self.per_row_squared * left)
            return int((root - self.per_row) / (2 * self.per_row_squared))
        return int(left / self.per_row) if self.per_row > 0 else None

    def raised(self, least: float) -> Growth:
        """The same, never less than ``least``."""
        return Growth(self.fixed, self.per_row, self.per_row_squared, max(self.least, least))


def fit_growth(points: Sequence[tuple[int, float]], *, per_row_squared: float = 0.0, counted: float = 0.0) -> Growth:
    """The line through measured peaks, by least squares.

    Args:
        points: (rows, bytes); at least one.
        per_row_squared: bytes of the loss's matrices for each pair of rows, known beforehand.
        counted: bytes a row that counting what autograd keeps gives; taken where the points do not show any growth,
            which happens where a step takes less than what starting has left.

    Returns:
        Slope and start; the slope is never negative.

    Raises:
        ValueError: there is no point.
    """
    if not points:
        raise ValueError("fit_growth needs a point")
    flat = [(rows, size - per_row_squared * rows**2) for rows, size in points]
    mean_rows = sum(rows for rows, _ in flat) / len(flat)
    mean_size = sum(size for _, size in flat) / len(flat)
    spread = sum((rows - mean_rows) ** 2 for rows, _ in flat)
    slope = sum((rows - mean_rows) * (size - mean_size) for rows, size in flat) / spread if spread else 0.0
    if slope * (max(rows for rows, _ in flat) - min(rows for rows, _ in flat)) < 2**20:  # less than it varies by
        slope = max(slope, 0.0) or counted
        slope = min(slope, counted) if counted else slope
    return Growth(mean_size - slope * mean_rows, slope, per_row_squared)
