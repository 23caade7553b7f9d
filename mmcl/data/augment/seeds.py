"""Seeds: every row of every epoch draws from its own, and every view and kind of change of a row from another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

# What a row's seed is mixed with for each thing that is drawn from it, so that no two of them hang together.
# Hard negatives take 3 and 4 (``mmcl.data.mining.hard_negatives``).
CAPTION, TAGS, WORDS, TOKENS, PIXELS, VIEW = 1, 2, 5, 6, 7, 16


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


def view_seed(seed: int, view: int) -> int:
    """The seed of one view of a row: the row's own for view 0, so that the only view is the first of several."""
    return seed if view == 0 else row_seed(0, VIEW + view, seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it, torch's global generator on the CPU starts from ``seed``; afterwards it is as it was.

    For transforms that draw from nowhere else. It costs some 2 microseconds, half of ``torch.random.fork_rng``.

    Args:
        seed: 0 or more.
    """
    generator = torch.default_generator
    state = generator.get_state()
    try:
        generator.manual_seed(seed)
        yield
    finally:
        generator.set_state(state)
