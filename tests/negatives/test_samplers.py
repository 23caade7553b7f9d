"""Which rows meet: every row once an epoch, the same batches on any number of processes."""

from __future__ import annotations

import numpy as np
import pytest

from mmcl.errors import ConfigError
from mmcl.negatives.samplers import RandomBatches


@pytest.mark.parametrize(("rows", "size"), [(100, 32), (96, 32), (97, 32), (33, 32), (5, 128), (2, 2), (3, 2)])
def test_every_row_once_in_batches_of_nearly_equal_size(rows: int, size: int) -> None:
    batches = RandomBatches(rows, size, seed=3)
    for epoch in (0, 1):
        parts = batches.epoch(epoch)
        sizes = [len(part) for part in parts]
        assert len(parts) == len(batches) == -(-rows // size)
        assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(RandomBatches(50, 8, seed=seed).epoch(epoch)).tolist()

    assert order(0, 4) == order(0, 4)
    assert order(0, 4) != order(0, 5)
    assert order(0, 4) != order(1, 4)
    used = RandomBatches(50, 8, seed=0)
    for epoch in range(4):
        used.epoch(epoch)
    assert np.concatenate(used.epoch(4)).tolist() == order(0, 4)  # what was drawn before does not matter


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_shares_partition_a_batch(world_size: int) -> None:
    for batch in RandomBatches(61, 20, seed=0).epoch(0):
        shares = [RandomBatches.share(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert np.concatenate(shares).tolist() == batch.tolist()
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1


def test_bucketing_by_length_pads_less_and_loses_no_row() -> None:
    lengths = np.random.default_rng(0).integers(4, 60, size=1000)

    def padding(batches: RandomBatches) -> int:
        return sum(int((lengths[rows].max() - lengths[rows]).sum()) for rows in batches.epoch(1))

    plain, bucketed = RandomBatches(1000, 16, seed=0), RandomBatches(1000, 16, seed=0, lengths=lengths)
    assert padding(bucketed) < 0.25 * padding(plain)
    assert sorted(np.concatenate(bucketed.epoch(1)).tolist()) == list(range(1000))
    first, second = bucketed.epoch(0), bucketed.epoch(1)
    assert [rows.tolist() for rows in first] != [rows.tolist() for rows in second]
    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in bucketed.epoch(0)]
    # Short and long batches come mixed, not in order of length.
    means = [lengths[rows].mean() for rows in first]
    assert means != sorted(means)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_for_a_negative(rows: int) -> None:
    with pytest.raises(ConfigError, match=f"{rows} usable row"):
        RandomBatches(rows, 8, seed=0)
