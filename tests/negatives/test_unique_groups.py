"""No group twice in a batch wherever that can be, every row once an epoch."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pytest

from mmcl.errors import ConfigError
from mmcl.negatives.samplers import RandomBatches
from mmcl.negatives.unique_groups import UniqueGroupBatches, deal


def twins(batches: list[np.ndarray], groups: np.ndarray) -> int:
    """Rows that meet an earlier row of their group."""
    return sum(len(rows) - len(set(groups[rows].tolist())) for rows in batches)


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        (np.arange(100), 32),
        (np.repeat(np.arange(50), 2), 25),
        (np.repeat(np.arange(20), 5), 20),  # five batches of every group once: no freedom at all
        (np.repeat(np.arange(3), 7), 3),  # a batch is one of each
        (np.random.default_rng(0).integers(0, 40, 211), 12),
        (np.arange(5), 128),
    ],
)
def test_no_group_meets_itself(groups: np.ndarray, size: int) -> None:
    batches = UniqueGroupBatches(groups, size, seed=1)
    assert batches.num_twins == 0
    for epoch in range(5):
        parts = batches.epoch(epoch)
        sizes = [len(part) for part in parts]
        assert len(parts) == len(batches) == -(-len(groups) // size)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert twins(parts, groups) == 0


def test_random_batches_would_meet_twins() -> None:
    groups = np.repeat(np.arange(50), 2)
    assert twins(RandomBatches(100, 25, seed=1).epoch(0), groups) > 0


@pytest.mark.parametrize("size", [4, 10, 33, 70, 200])
def test_groups_too_large_are_spread_evenly_and_counted(size: int, caplog: pytest.LogCaptureFixture) -> None:
    groups = np.concatenate([np.zeros(60, int), np.ones(31, int), np.arange(2, 80), np.repeat(np.arange(80, 90), 4)])
    with caplog.at_level(logging.WARNING):
        batches = UniqueGroupBatches(groups, size, seed=0)
    number = len(batches)
    least = sum(max(0, count - number) for count in Counter(groups.tolist()).values())
    assert batches.num_twins == least
    assert (f"{least} of {len(groups)} rows meet" in caplog.text) == (least > 0)
    caplog.clear()
    for epoch in range(4):
        parts = batches.epoch(epoch)
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert twins(parts, groups) == least
        for group, count in Counter(groups.tolist()).items():
            each = [int((groups[rows] == group).sum()) for rows in parts]
            assert {count // number, -(-count // number)} >= set(each)
    assert caplog.text == ""  # told once, not every epoch


def test_order_depends_on_seed_and_epoch_alone() -> None:
    groups = np.repeat(np.arange(40), 2)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in UniqueGroupBatches(groups, 16, seed=seed).epoch(epoch)]

    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)
    used = UniqueGroupBatches(groups, 16, seed=0)
    for epoch in range(3):
        used.epoch(epoch)
    assert [rows.tolist() for rows in used.epoch(3)] == order(0, 3)


def test_any_two_rows_meet_about_equally_often() -> None:
    groups = np.repeat(np.arange(12), 2)
    batches = UniqueGroupBatches(groups, 6, seed=0)  # four batches of six
    met = np.zeros((24, 24))
    epochs = 1500
    for epoch in range(epochs):
        for rows in batches.epoch(epoch):
            met[np.ix_(rows, rows)] += 1
    others = met[groups[:, None] != groups[None, :]] / epochs
    expected = 5 / 22  # five of the 22 rows of other groups
    assert met[groups[:, None] == groups[None, :]].reshape(24, 2).min(axis=1).max() == 0
    assert abs(others.mean() - expected) < 1e-9
    assert others.std() < 0.02  # 0.011 by chance alone


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_partition_a_batch(world_size: int) -> None:
    for batch in UniqueGroupBatches(np.arange(61), 20, seed=0).epoch(0):
        shares = [UniqueGroupBatches.share(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert np.concatenate(shares).tolist() == batch.tolist()


def test_a_large_set_with_huge_groups_is_dealt_quickly() -> None:
    groups = np.random.default_rng(0).zipf(1.3, size=100_000) % 30_000
    batches = UniqueGroupBatches(groups, 1024, seed=0)
    assert twins(batches.epoch(0), groups) == batches.num_twins > 0


def test_what_cannot_be_batched_is_told() -> None:
    with pytest.raises(ConfigError, match="1 usable row"):
        UniqueGroupBatches([3], 8, seed=0)
    with pytest.raises(ConfigError, match="0 usable row"):
        UniqueGroupBatches([], 8, seed=0)
    with pytest.raises(ConfigError, match="batch_size is 1"):
        UniqueGroupBatches([3, 4], 1, seed=0)
    with pytest.raises(ConfigError, match="group_ids has shape .2, 1."):
        UniqueGroupBatches(np.zeros((2, 1), int), 2, seed=0)
    with pytest.raises(ConfigError, match="type float64"):
        UniqueGroupBatches(np.zeros(3), 2, seed=0)
    assert [len(rows) for rows in deal(np.zeros(0, int), 3, np.random.default_rng(0))] == [0, 0, 0]
