"""Batches of several sources, each with its own part of an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from mmcl.errors import ConfigError
from mmcl.negatives.samplers import BatchSampler, check_batches
from mmcl.negatives.unique_groups import as_codes

_TAG = 0x6D6978  # sets the seeds of a source's order apart from those of an epoch's


class MixtureBatches(BatchSampler):
    """Batches that draw from each source in proportion to its weight, however many rows it has.

    An epoch has as many rows as all sources together, n; source s brings ``n * weight_s / sum(weights)`` of them,
    rounded so that they add up. Each source's rows come in random order and, when they are used up, in another: those
    of a source with more than its part of an epoch go on in the next epoch where they stopped, those of a source with
    less are repeated. So after any number of epochs each row of a source has been seen equally often, but for one.
    What an epoch holds depends on (seed, epoch) alone. Within a batch no row stands twice.

    Stratified, every batch holds each source's share of its rows, rounded up or down: the ``n`` rows make
    ``ceil(n / batch_size)`` batches whose sizes differ by one at most. With one source a batch, the rows of a source
    make as few batches as they need, of nearly equal size, and batches of all sources come in random order: what tells
    sources apart (photo or drawing, language, style of caption) then tells no negative from the positive.

    Where the rows of a source are fewer than three times its share of a batch, no fresh order keeps a row from meeting
    itself at the seam of two: within an epoch one order then goes round and round, another one in each epoch, whose
    first rows are those that are due.

    Args:
        source_ids: (n,) integers, n >= 2: the source of each row.
        weights: one for each source, in ascending order of the ids; above 0. None: the numbers of rows.
        batch_size: largest batch, over all processes.
        seed: of the order.
        mixing: "stratified" or "per_source".
        names: of the sources, for messages.

    Attributes:
        rows_per_epoch: (k,) int64, the rows that each source brings to an epoch.

    Raises:
        ConfigError: fewer than two rows or two a batch; weights that are none; a source whose part of an epoch is no
            row, or whose share of a batch is more rows than it has.

    Example:
        >>> batches = MixtureBatches([0] * 6 + [1] * 2, [1, 1], 4, seed=0)
        >>> batches.rows_per_epoch.tolist(), [int((rows >= 6).sum()) for rows in batches.epoch(0)]
        ([4, 4], [2, 2])
    """

    def __init__(
        self,
        source_ids: Sequence[int] | np.ndarray,
        weights: Sequence[float] | np.ndarray | None,
        batch_size: int,
        *,
        seed: int,
        mixing: Literal["stratified", "per_source"] = "stratified",
        names: Sequence[str] | None = None,
    ) -> None:
        codes = as_codes(source_ids, name="source_ids")
        check_batches(len(codes), batch_size)
        if mixing not in ("stratified", "per_source"):
            raise ConfigError(f"mixing is {mixing!r}; want stratified or per_source")
        self.num_rows, self.batch_size, self.seed, self.mixing = len(codes), batch_size, seed, mixing
        self._rows = [np.flatnonzero(codes == source) for source in range(int(codes.max()) + 1)]
        self._names = list(names) if names is not None else [f"source {number}" for number in range(len(self._rows))]
        counts = np.array([len(rows) for rows in self._rows])
        self.rows_per_epoch = _apportion(_check_weights(weights, counts), len(codes), self._names)
        self._batches_of = -(-self.rows_per_epoch // np.minimum(batch_size, counts))  # with one source a batch
        self._most = self._most_in_a_batch()
        for name, most, rows in zip(self._names, self._most, counts):
            if most > rows:
                raise ConfigError(
                    f"{name} has {rows} row(s), and its share of a batch is {most}: a row would meet itself; lower its "
                    f"weight or train.batch_size"
                )

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_rows // self.batch_size) if self.mixing == "stratified" else int(self._batches_of.sum())

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers, whole batches over all processes."""
        draw = np.random.default_rng([self.seed, epoch])
        drawn = [self._drawn(source, epoch) for source in range(len(self._rows))]
        if self.mixing == "per_source":
            batches = [part for rows, number in zip(drawn, self._batches_of) for part in np.array_split(rows, number)]
            return [batches[place] for place in draw.permutation(len(batches))]
        ends = np.cumsum(self._counts(draw), axis=0)  # (B, k)
        parts = [np.split(rows, ends[:-1, source]) for source, rows in enumerate(drawn)]
        # Shuffled, so that the processes that share a batch read of every source.
        return [draw.permutation(np.concatenate(rows)) for rows in zip(*parts)]

    def _shares(self) -> tuple[np.ndarray, np.ndarray]:
        """(B,) the sizes of stratified batches, and (B, k) the rows that each has of each source for certain."""
        sizes = np.array([len(part) for part in np.array_split(np.arange(self.num_rows), len(self))])
        return sizes, sizes[:, None] * self.rows_per_epoch[None, :] // self.num_rows

    def _counts(self, draw: np.random.Generator) -> np.ndarray:
        """(B, k) int64: the rows that each batch has of each source, a share's floor or one more.

        Rows that the floors leave over go, source by source, to the batches with most places left, which always works
        out (Gale 1957, Ryser 1957): the shares' own fractions fill rows and columns alike.
        """
        sizes, counts = self._shares()
        left = sizes - counts.sum(axis=1)
        over = self.rows_per_epoch - counts.sum(axis=0)
        for source in np.argsort(-over, kind="stable"):
            mixed = draw.permutation(len(sizes))
            chosen = mixed[np.argsort(-left[mixed], kind="stable")[: over[source]]]
            counts[chosen, source] += 1
            left[chosen] -= 1
        return counts

    def _most_in_a_batch(self) -> np.ndarray:
        """(k,) the most rows of each source that a batch may have."""
        if self.mixing == "per_source":
            return -(-self.rows_per_epoch // self._batches_of)
        sizes, floors = self._shares()
        over = floors.sum(axis=0) < self.rows_per_epoch
        left = floors.sum(axis=1) < sizes
        return (floors + (left[:, None] & over[None, :])).max(axis=0)

    def _drawn(self, source: int, epoch: int) -> np.ndarray:
        """The rows that a source brings to an epoch, in order."""
        rows, number = self._rows[source], int(self.rows_per_epoch[source])
        seam = int(self._most[source]) - 1  # rows of two orders that may meet in a batch
        if len(rows) < 3 * seam:
            return rows[np.resize(self._round(source, epoch, number % len(rows)), number)]
        first, last = epoch * number // len(rows), ((epoch + 1) * number - 1) // len(rows)
        orders = np.concatenate([self._fresh_order(source, turn, seam) for turn in range(first, last + 1)])
        start = epoch * number - first * len(rows)
        return rows[orders[start : start + number]]

    def _round(self, source: int, epoch: int, ahead: int) -> np.ndarray:
        """An order to go round and round in; ahead are the rows that are due once more than the others."""
        turns = self._order(source, 0)
        due = np.zeros(len(turns), dtype=bool)
        due[turns[(epoch * ahead + np.arange(ahead)) % len(turns)]] = True
        order = self._order(source, epoch)
        return np.concatenate([order[due[order]], order[~due[order]]])

    def _order(self, source: int, turn: int) -> np.ndarray:
        return np.random.default_rng([self.seed, _TAG, source, turn]).permutation(len(self._rows[source]))

    def _fresh_order(self, source: int, turn: int, seam: int) -> np.ndarray:
        """The order of one turn; none of its first ``seam`` rows is among the last of the turn before.

        Only its head and middle change for that, never its end: so the turn after needs to know no more than this
        turn's plain order.
        """
        order = self._order(source, turn)
        if turn == 0 or seam == 0:
            return order
        before = np.zeros(len(order), dtype=bool)
        before[self._order(source, turn - 1)[-seam:]] = True
        clashing = np.flatnonzero(before[order[:seam]])
        middle = seam + np.flatnonzero(~before[order[seam : len(order) - seam]])[: len(clashing)]
        order[clashing], order[middle] = order[middle], order[clashing]
        return order


def _check_weights(weights: Sequence[float] | np.ndarray | None, counts: np.ndarray) -> np.ndarray:
    if weights is None:
        return counts.astype(np.float64)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != counts.shape or not (np.isfinite(given).all() and (given > 0).all()):
        raise ConfigError(f"weights are {given.tolist()}; want one above 0 for each of {len(counts)} source(s)")
    return given


def _apportion(weights: np.ndarray, total: int, names: Sequence[str]) -> np.ndarray:
    """(k,) int64 that add up to ``total``, by largest remainders."""
    exact = total * weights / weights.sum()
    parts = np.floor(exact).astype(np.int64)
    short = total - int(parts.sum())
    parts[np.argsort(parts - exact, kind="stable")[:short]] += 1
    if not parts.all():
        name = names[int(np.argmin(parts))]
        raise ConfigError(f"{name}: its weight gives it none of an epoch's {total} rows; raise it, or leave it out")
    return parts
