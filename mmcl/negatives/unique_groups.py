"""Batches in which no group stands twice, wherever the groups allow it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.negatives.samplers import BatchSampler, check_batches

log = get_logger(__name__)


class UniqueGroupBatches(BatchSampler):
    """Every row once an epoch, in random batches in which no two rows are of one group.

    ``n`` rows make ``B = ceil(n / batch_size)`` batches whose sizes differ by one at most. A group of at most ``B``
    rows never meets itself. A group of more cannot be spread: its c rows are dealt out evenly, ``floor(c / B)`` or
    ``ceil(c / B)`` a batch, so that ``c - B`` of them meet a twin; they are counted and logged once, none is dropped.

    Two captions of one image, or two images of one caption, are false negatives of a loss that looks at pairs alone,
    and places lost for negatives in one that does not.

    Args:
        group_ids: (n,) integers, n >= 2; equal where rows must not meet.
        batch_size: largest batch, over all processes.
        seed: of the order.

    Attributes:
        num_twins: rows an epoch that meet an earlier row of their group in their batch.

    Raises:
        ConfigError: fewer than two rows, a batch of fewer than two, or ids that are no (n,) integers.

    Example:
        >>> batches = UniqueGroupBatches([7, 7, 8, 8], 2, seed=0)
        >>> sorted(sorted(rows.tolist()) for rows in batches.epoch(0)) in ([[0, 2], [1, 3]], [[0, 3], [1, 2]])
        True
    """

    def __init__(self, group_ids: Sequence[int] | np.ndarray, batch_size: int, *, seed: int) -> None:
        self.groups = as_codes(group_ids, name="group_ids")
        self.num_rows, self.batch_size, self.seed = len(self.groups), batch_size, seed
        check_batches(self.num_rows, batch_size)
        surplus = np.bincount(self.groups) - len(self)
        self.num_twins = int(surplus[surplus > 0].sum())
        if self.num_twins:
            log.warning(
                "%d of %d rows meet another row of their group in a batch: %d group(s) have more rows than an epoch "
                "has batches (%d); a smaller train.batch_size makes more batches",
                self.num_twins,
                self.num_rows,
                int((surplus > 0).sum()),
                len(self),
            )

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_rows // self.batch_size)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers, whole batches over all processes."""
        return deal(self.groups, len(self), np.random.default_rng([self.seed, epoch]))


def as_codes(ids: Sequence[int] | np.ndarray, *, name: str) -> np.ndarray:
    """(n,) integers as int64 codes from 0.

    Args:
        ids: (n,) integers.
        name: the argument's name, for messages.

    Raises:
        ConfigError: another shape or type.
    """
    array = np.asarray(ids)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise ConfigError(f"{name} has shape {array.shape} and type {array.dtype}; want (n,) integers, one a row")
    return np.unique(array, return_inverse=True)[1].reshape(-1).astype(np.int64)


def deal(groups: np.ndarray, num_batches: int, draw: np.random.Generator) -> list[np.ndarray]:
    """Deal rows out to batches at random, so that rows of one group meet as little as they can.

    Rows in random order, group beside group, are dealt like cards: round after round, one card to each batch, the
    batches in a new random order each round. A group that begins at a round's end goes on, in the next round, with the
    batches it has not been to. Linear in the number of rows, but for one sort.

    Args:
        groups: (n,) int64 codes from 0.
        num_batches: how many batches.
        draw: the source of chance.

    Returns:
        ``num_batches`` arrays of row numbers whose sizes differ by one at most; all empty for no rows.
    """
    order = draw.permutation(len(groups))
    keys = draw.permutation(int(groups.max(initial=0)) + 1)[groups][order]
    by_group = np.argsort(keys, kind="stable")
    order, keys = order[by_group], keys[by_group]
    seats = np.empty(len(keys), dtype=np.int64)
    for start in range(0, len(keys), num_batches):
        seat = draw.permutation(num_batches)
        if start and keys[start] == keys[start - 1]:
            first, end = np.searchsorted(keys, keys[start]), np.searchsorted(keys, keys[start], side="right")
            # Of the round in which the group began: whole rounds since then went to every batch alike.
            taken = seats[first : (first // num_batches + 1) * num_batches]
            seat = _free_first(seat, taken, end - start)
        stop = min(start + num_batches, len(keys))
        seats[start:stop] = seat[: stop - start]
    rows = order[np.argsort(seats, kind="stable")]
    return np.split(rows, np.cumsum(np.bincount(seats, minlength=num_batches))[:-1])


def _free_first(seat: np.ndarray, taken: np.ndarray, number: int) -> np.ndarray:
    """A random order of batches that begins with ``number`` of those not ``taken``, as far as there are any."""
    is_taken = np.zeros(len(seat), dtype=bool)
    is_taken[taken] = True
    is_taken = is_taken[seat]
    head = np.concatenate([seat[~is_taken], seat[is_taken]])[:number]
    is_head = np.zeros(len(seat), dtype=bool)
    is_head[head] = True
    return np.concatenate([head, seat[~is_head[seat]]])
