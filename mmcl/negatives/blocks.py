"""Batches of rows that lie near each other: for data that are fetched a block at a time."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from mmcl.errors import ConfigError
from mmcl.negatives.samplers import BatchSampler, check_batches
from mmcl.negatives.unique_groups import as_codes

MOST_LANES = 8
SHARE_TOLERANCE = 8
LEAST_MIXED = 4  # blocks that a batch draws from, where blocks_at_once allows it
DEFAULT_BLOCKS = 32


class BlockBatches(BatchSampler):
    """Every row once an epoch, in an order that needs few blocks (row groups, shards) at a time.

    Blocks come in random order. They are dealt out to L lanes (8, or 4, 2, 1 where ``blocks_at_once`` is below 32, 16,
    8), and batch i draws from lane i modulo L: from a window of ``W = blocks_at_once / L`` blocks whose rows are mixed
    evenly, then from the next window. So a batch mixes the rows of W blocks, and L * W blocks are in use at once. ``n``
    rows make ``ceil(n / batch_size)`` batches whose sizes differ by one at most.

    A loader's workers take batches in turn: 2, 4 or 8 of them have lanes of their own, and each block is needed by one.
    Within a batch rows stand block by block, and processes share it out at the blocks' edges. Fetches of each block an
    epoch, by readers that keep L * W blocks (500 blocks of 100 rows, batches of 128, ``blocks_at_once=32``): 1.00 with
    one reader; 1.03 to 1.04 with 2, 4 or 8 workers, 1.02 on 2 and 1.06 on 4 processes (near the epoch's end lanes run
    dry and share); 2.1 on 8 processes, which is more than W; 3.9 with 3 workers, which share lanes. Blocks of 20 to 139
    rows: 1.00, 1.02, 1.21 on 2 and 1.73 on 4 processes. In random batches it is 94.

    Source: the two-level shuffle of Petastorm and MosaicML Streaming (blocks, then rows of some blocks). Deviation:
        lanes, so that the order depends on (seed, epoch) alone and workers still share no block.

    Args:
        block_ids: (n,) integers, n >= 2; equal where rows are fetched together.
        batch_size: largest batch, over all processes.
        seed: of the order.
        blocks_at_once: blocks that are open at once, at least 1. With 1, rows of one block alone meet. As many as there
            are, or more: batches are mixed from all over the data.

    Raises:
        ConfigError: fewer than two rows, a batch of fewer than two, ``blocks_at_once`` below 1, or ids that are no (n,)
            integers.

    Example:
        >>> batches = BlockBatches([0, 0, 1, 1, 2, 2], 2, seed=0, blocks_at_once=1)
        >>> sorted(sorted(rows.tolist()) for rows in batches.epoch(0))
        [[0, 1], [2, 3], [4, 5]]
    """

    def __init__(
        self,
        block_ids: Sequence[int] | np.ndarray,
        batch_size: int,
        *,
        seed: int,
        blocks_at_once: int = DEFAULT_BLOCKS,
    ) -> None:
        self.blocks = as_codes(block_ids, name="block_ids")
        self.num_rows, self.batch_size, self.seed = len(self.blocks), batch_size, seed
        check_batches(self.num_rows, batch_size)
        if blocks_at_once < 1:
            raise ConfigError(f"blocks_at_once is {blocks_at_once}; want at least 1")
        self.sizes = np.bincount(self.blocks)
        self.lanes, self.window = lanes_and_window(min(blocks_at_once, len(self.sizes)))

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_rows // self.batch_size)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers, block by block, whole batches over all processes."""
        draw = np.random.default_rng([self.seed, epoch])
        lane, place = self._deal_blocks(draw)
        streams = self._mix_rows(lane, place, draw)
        # Of blocks in a batch: those of equal place in their window beside each other, so that a process which shares
        # batches out gets the same ones before and after a window's end.
        order = (lane * self.window + place % self.window) * len(self.sizes) + place
        batches, taken = [], np.zeros(self.lanes, dtype=np.int64)
        left = np.array([len(stream) for stream in streams])
        small, larger = divmod(self.num_rows, len(self))
        for number in range(len(self)):
            wanted, own = small + (number < larger), number % self.lanes
            parts = []
            while wanted:
                count = min(wanted, int(left[own]))
                parts.append(streams[own][taken[own] : taken[own] + count])
                taken[own], left[own], wanted = taken[own] + count, left[own] - count, wanted - count
                own = int(left.argmax())  # near the epoch's end a lane may run dry
            rows = np.concatenate(parts)
            batches.append(rows[np.argsort(order[self.blocks[rows]], kind="stable")])
        return batches

    def share(self, batch: np.ndarray, *, rank: int, world_size: int) -> np.ndarray:
        """The contiguous part of a batch that one process reads.

        It ends where a block does if that leaves or takes an eighth of the rows at most; else parts are even.
        """
        blocks = self.blocks[batch]
        edges = np.flatnonzero(np.diff(blocks)) + 1
        even = len(batch) / world_size
        ends = [0]
        for number in range(1, world_size):
            end = round(number * even)
            near = edges[np.abs(edges - end).argmin()] if len(edges) else end
            ends.append(int(near) if abs(near - end) <= even / SHARE_TOLERANCE and near > ends[-1] else end)
        ends.append(len(batch))
        return batch[ends[rank] : ends[rank + 1]]

    def _deal_blocks(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(g,) each block's lane, and its place there: lanes of nearly equal rows, in random order."""
        lane, place = np.empty_like(self.sizes), np.empty_like(self.sizes)
        shortest = [(0, number, 0) for number in range(self.lanes)]  # rows, lane, blocks
        for block in draw.permutation(len(self.sizes)).tolist():
            rows, number, blocks = shortest[0]
            lane[block], place[block] = number, blocks
            heapq.heapreplace(shortest, (rows + int(self.sizes[block]), number, blocks + 1))
        return lane, place

    def _mix_rows(self, lane: np.ndarray, place: np.ndarray, draw: np.random.Generator) -> list[np.ndarray]:
        """The rows of each lane: window after window, each stretch of it with its share of every block."""
        rows = draw.permutation(self.num_rows)
        rows = rows[np.argsort(self.blocks[rows], kind="stable")]  # block beside block, each in random order
        starts = np.cumsum(self.sizes) - self.sizes
        own = self.blocks[rows]
        share = (np.arange(self.num_rows) - starts[own] + draw.random(self.num_rows)) / self.sizes[own]
        order = np.lexsort((share, place[own] // self.window, lane[own]))
        counts = np.bincount(lane, weights=self.sizes, minlength=self.lanes).astype(np.int64)
        return np.split(rows[order], np.cumsum(counts)[:-1])


def lanes_and_window(blocks_at_once: int) -> tuple[int, int]:
    """(L, W): as many lanes as leave each a window of four blocks, and the blocks of a window."""
    lanes = MOST_LANES
    while lanes > 1 and blocks_at_once < lanes * LEAST_MIXED:
        lanes //= 2
    return lanes, max(1, blocks_at_once // lanes)
