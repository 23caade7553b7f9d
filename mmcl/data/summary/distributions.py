"""How values are spread: percentiles of numbers, and counts of names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_LEVELS = {"p5": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99}
KEPT_VALUES = 50


@dataclass(frozen=True)
class Spread:
    """Percentiles of numbers, each an observed value: the smallest that at least so many of them do not exceed.

    Attributes:
        count: how many numbers.
        min, p5, median, p95, p99, max: as they say; 0 of no numbers.
        mean: the arithmetic mean; 0 of no numbers.
    """

    count: int
    min: float
    p5: float
    median: float
    p95: float
    p99: float
    max: float
    mean: float


def spread_of(values: np.ndarray) -> Spread:
    """The percentiles of (n,) finite numbers; all 0 for n = 0.

    Example:
        >>> spread_of(np.array([3, 1, 2, 10])).median
        2
    """
    if not len(values):
        return Spread(0, 0, 0, 0, 0, 0, 0, 0.0)
    levels = np.quantile(values, [0.0, *_LEVELS.values(), 1.0], method="inverted_cdf").tolist()
    return Spread(len(values), *levels, mean=round(float(np.mean(values, dtype=np.float64)), 4))


@dataclass(frozen=True)
class ValueCounts:
    """How often each value of a column stands.

    Attributes:
        filled: rows that have a value.
        distinct: different values.
        top: the most frequent values and their counts, at most ``KEPT_VALUES``; equals by name.
        largest_share: of the filled rows, what the most frequent value has: the score of always answering it.
        smallest: rows of the rarest value.
    """

    filled: int
    distinct: int
    top: dict[str, int]
    largest_share: float
    smallest: int


def count_values(column: pa.Array | pa.ChunkedArray) -> ValueCounts:
    """Count the values of a column of strings; null and empty ones are not filled in."""
    given = column.filter(pc.and_(pc.is_valid(column), pc.not_equal(pc.fill_null(column, ""), "")))
    counted = pc.value_counts(given)
    values, counts = counted.field("values").to_pylist(), counted.field("counts").to_pylist()
    ordered = sorted(zip(values, counts), key=lambda pair: (-pair[1], pair[0]))
    largest = ordered[0][1] / len(given) if ordered else 0.0
    smallest = ordered[-1][1] if ordered else 0
    return ValueCounts(len(given), len(ordered), dict(ordered[:KEPT_VALUES]), largest, smallest)
