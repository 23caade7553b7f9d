"""Batches of rows that lie near each other: every row once, and few blocks at a time."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

from mmcl.errors import ConfigError
from mmcl.negatives.blocks import BlockBatches, lanes_and_window
from mmcl.negatives.samplers import BatchSampler, RandomBatches


def _fetches(sampler: BatchSampler, blocks: np.ndarray, *, keep: int, workers: int = 1, ranks: int = 1) -> float:
    """Times a block is fetched by readers that keep so many of them, those that are used up going first."""
    uses = np.bincount(blocks)
    readers = [[OrderedDict() for _ in range(workers)] for _ in range(ranks)]
    total = 0
    for number, batch in enumerate(sampler.epoch(0)):
        for rank in range(ranks):
            kept = readers[rank][number % workers]
            for row in sampler.share(batch, rank=rank, world_size=ranks):
                block = blocks[row]
                total += block not in kept
                kept[block] = kept.get(block, 0) + 1
                kept.move_to_end(block, last=kept[block] < uses[block])
                if len(kept) > keep:
                    kept.popitem(last=False)
    return total / len(uses)


def _uneven(number: int) -> np.ndarray:
    sizes = np.random.default_rng(5).integers(20, 140, number)
    return np.repeat(np.arange(number), sizes)


@pytest.mark.parametrize("blocks_at_once", [1, 3, 8, 32, 1000])
@pytest.mark.parametrize("size", [2, 7, 64, 5000])
def test_every_row_once_in_batches_of_nearly_equal_size(size: int, blocks_at_once: int) -> None:
    blocks = np.random.default_rng(0).permutation(_uneven(13))
    sampler = BlockBatches(blocks, size, seed=3, blocks_at_once=blocks_at_once)
    for epoch in (0, 1):
        parts = sampler.epoch(epoch)
        sizes = [len(part) for part in parts]
        assert len(parts) == len(sampler) == -(-len(blocks) // size)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(blocks)))
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    blocks = np.repeat(np.arange(40), 9)

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(BlockBatches(blocks, 8, seed=seed, blocks_at_once=8).epoch(epoch)).tolist()

    assert order(0, 4) == order(0, 4)
    assert order(0, 4) != order(0, 5)
    assert order(0, 4) != order(1, 4)
    used = BlockBatches(blocks * 7 + 3, 8, seed=0, blocks_at_once=8)
    for epoch in range(4):
        used.epoch(epoch)
    assert np.concatenate(used.epoch(4)).tolist() == order(0, 4)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_shares_partition_a_batch(world_size: int) -> None:
    blocks = _uneven(64)
    sampler = BlockBatches(blocks, 64, seed=0, blocks_at_once=32)
    for batch in sampler.epoch(0):
        shares = [sampler.share(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert np.concatenate(shares).tolist() == batch.tolist()
        sizes = [len(share) for share in shares]
        assert min(sizes) >= 1
        assert max(sizes) <= np.ceil(len(batch) / world_size * 1.25) + 1


@pytest.mark.parametrize(("workers", "ranks"), [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (4, 2)])
def test_each_block_is_fetched_once_by_readers_that_keep_those_in_use(workers: int, ranks: int) -> None:
    blocks = np.repeat(np.arange(512), 100)
    sampler = BlockBatches(blocks, 128, seed=1, blocks_at_once=32)
    assert sampler.lanes * sampler.window == 32
    assert _fetches(sampler, blocks, keep=32, workers=workers, ranks=ranks) <= 1.05


def test_uneven_blocks_and_controls() -> None:
    blocks = _uneven(128)
    sampler = BlockBatches(blocks, 128, seed=1, blocks_at_once=32)
    assert _fetches(sampler, blocks, keep=32) <= 1.05
    assert _fetches(sampler, blocks, keep=32, workers=4) <= 1.3
    assert _fetches(sampler, blocks, keep=32, workers=3) > 2, "three workers share eight lanes"
    assert _fetches(RandomBatches(len(blocks), 128, seed=1), blocks, keep=32) > 30
    one_by_one = BlockBatches(blocks, 16, seed=1, blocks_at_once=1)
    assert _fetches(one_by_one, blocks, keep=1) == 1


def test_a_batch_mixes_its_window_evenly_and_not_in_order() -> None:
    blocks = np.repeat(np.arange(64), 100)
    sampler = BlockBatches(blocks, 100, seed=0, blocks_at_once=32)
    batches = sampler.epoch(0)
    counts = [np.bincount(blocks[rows], minlength=64) for rows in batches]
    inside = [count for count in counts if (count > 0).sum() == sampler.window]
    assert len(inside) > len(batches) / 2
    assert all(np.ptp(count[count > 0]) <= 4 for count in inside)
    seen = np.concatenate([rows[blocks[rows] == 5] for rows in batches])
    assert seen.tolist() != sorted(seen.tolist())
    assert abs(np.corrcoef(np.arange(100), seen)[0, 1]) < 0.35
    whole = BlockBatches(blocks, 100, seed=0, blocks_at_once=64)
    assert whole.lanes * whole.window == 64, "as many as there are"


def test_lanes() -> None:
    assert [lanes_and_window(number) for number in (1, 4, 7, 8, 16, 31, 32, 100)] == [
        (1, 1), (1, 4), (1, 7), (2, 4), (4, 4), (4, 7), (8, 4), (8, 12),
    ]  # fmt: skip


def test_wrong_arguments() -> None:
    with pytest.raises(ConfigError, match="blocks_at_once is 0"):
        BlockBatches([0, 0, 1], 2, seed=0, blocks_at_once=0)
    with pytest.raises(ConfigError, match="1 usable row"):
        BlockBatches([0], 2, seed=0)
    with pytest.raises(ConfigError, match="block_ids has shape"):
        BlockBatches(np.zeros((2, 2)), 2, seed=0)
