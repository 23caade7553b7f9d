"""Seeds: every row of every epoch draws from its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def row_seed(seed: int, epoch: int, row: int) -> int:
    """One 63-bit seed per run, epoch and row, whichever process or worker reads it; see ``row_seeds``."""
    return int(row_seeds(seed, epoch, [row])[0])


def row_seeds(seed: int, epoch: int, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Seeds of many rows, (n,) int64 >= 0: splitmix64's finaliser over a weighted sum, modulo 2**64."""
    start = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + 1) & (2**64 - 1)
    value = np.asarray(rows, dtype=np.uint64) * np.uint64(0x94D049BB133111EB) + np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return ((value ^ (value >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
