"""Batches of a part of the rows."""

from __future__ import annotations

import numpy as np

from mmcl.training.protocols import Batches


class SomeRows:
    """Batches that were made for a part of a data set, in the numbers of the whole.

    Args:
        batches: over 0 to ``len(rows)``.
        rows: (k,) int64, ascending; the row that each of them stands for.

    Example:
        >>> from mmcl.negatives.samplers import RandomBatches
        >>> batches = SomeRows(RandomBatches(2, 2, seed=0), np.array([3, 7]))
        >>> sorted(batches.epoch(0)[0].tolist())
        [3, 7]
    """

    def __init__(self, batches: Batches, rows: np.ndarray) -> None:
        self._batches, self._rows = batches, rows

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._batches)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers of the whole."""
        return [self._rows[batch] for batch in self._batches.epoch(epoch)]

    def share(self, batch: np.ndarray, *, rank: int, world_size: int) -> np.ndarray:
        """What one process reads of a batch."""
        own = np.searchsorted(self._rows, batch)
        return self._rows[self._batches.share(own, rank=rank, world_size=world_size)]
