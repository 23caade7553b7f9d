"""Which rows meet in a batch: seeded, resumable, the same on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl.errors import ConfigError


class BatchSampler:
    """What all samplers share: the order of an epoch depends on (seed, epoch) alone, and processes share a batch out.

    A process takes its slice of each whole batch, so the batches are the same however many processes share them.
    """

    @staticmethod
    def share(batch: np.ndarray, *, rank: int, world_size: int) -> np.ndarray:
        """The contiguous part of a batch that one process reads; parts differ by one row at most."""
        return np.array_split(batch, world_size)[rank]


def check_batches(num_rows: int, batch_size: int) -> None:
    """Refuse what leaves a row without a negative.

    Raises:
        ConfigError: fewer than two rows, or a batch of fewer than two.
    """
    if num_rows < 2:
        raise ConfigError(f"the training split has {num_rows} usable row(s); contrastive learning needs two or more")
    if batch_size < 2:
        raise ConfigError(f"batch_size is {batch_size}; contrastive learning needs two rows a batch or more")


class RandomBatches(BatchSampler):
    """Every row once an epoch, in random batches of nearly equal size.

    ``n`` rows in batches of at most ``batch_size`` make ``ceil(n / batch_size)`` batches whose sizes differ by one at
    most: no row is dropped, no tiny last batch gives a loss without negatives, and data smaller than a batch make one
    batch an epoch. The order depends on (seed, epoch) alone; a process takes its slice of each batch, so the batches
    are the same however many processes share them.

    Args:
        num_rows: rows of the data set, at least two.
        batch_size: largest batch, over all processes.
        seed: of the order.
        lengths: tokens of each row's caption; when given, rows of similar length meet (sorted within 50 batches).

    Raises:
        ConfigError: fewer than two rows: a row would have no negative.
    """

    POOL = (
        50  # batches whose rows are sorted by length together: long enough to save padding, short enough to stay random
    )

    def __init__(
        self, num_rows: int, batch_size: int, *, seed: int, lengths: Sequence[int] | np.ndarray | None = None
    ) -> None:
        check_batches(num_rows, batch_size)
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self.lengths = None if lengths is None else np.asarray(lengths)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_rows // self.batch_size)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers, whole batches over all processes."""
        draw = np.random.default_rng([self.seed, epoch])
        order = draw.permutation(self.num_rows)
        if self.lengths is None:
            return np.array_split(order, len(self))
        pool = self.batch_size * self.POOL
        pools = [order[start : start + pool] for start in range(0, self.num_rows, pool)]
        order = np.concatenate([rows[np.argsort(self.lengths[rows], kind="stable")] for rows in pools])
        batches = np.array_split(order, len(self))
        return [batches[i] for i in draw.permutation(len(batches))]
