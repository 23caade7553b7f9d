"""Batches of several sources: exact parts of an epoch, no row twice in a batch, all rows in time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from mmcl.errors import ConfigError
from mmcl.negatives.mixtures import MixtureBatches
from mmcl.negatives.samplers import RandomBatches

# Rows of each source, weights, batch size: sources larger and smaller than their part, tiny ones, a single one.
CASES = [
    ([60, 20], [1, 1], 16),
    ([100, 30, 7], [1, 2, 1], 25),
    ([50, 50], None, 12),
    ([200, 12], [1, 1], 24),  # twelve of the twelve rows are in every batch
    ([31, 64, 17, 88], [5, 1, 0.5, 2], 10),
    ([40], [3], 16),
    ([9, 300], [1, 40], 128),
]


def mixed(counts: list[int], seed: int = 0) -> np.ndarray:
    """The source of each row, in no order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [rows.tolist() for rows in batches]


@pytest.mark.parametrize("mixing", ["stratified", "per_source"])
@pytest.mark.parametrize(("counts", "weights", "size"), CASES)
def test_parts_of_an_epoch_are_exact_and_no_row_meets_itself(counts, weights, size, mixing) -> None:
    ids = mixed(counts)
    batches = MixtureBatches(ids, weights, size, seed=3, mixing=mixing)
    exact = len(ids) * np.array(weights or counts) / sum(weights or counts)
    assert batches.rows_per_epoch.sum() == len(ids)
    assert (abs(batches.rows_per_epoch - exact) < 1).all()
    seen = np.zeros(len(ids), dtype=int)
    for epoch in range(9):
        parts = batches.epoch(epoch)
        assert len(parts) == len(batches)
        for rows in parts:
            assert len(set(rows.tolist())) == len(rows) <= size
        drawn = np.concatenate(parts)
        assert np.bincount(ids[drawn]).tolist() == batches.rows_per_epoch.tolist()
        seen += np.bincount(drawn, minlength=len(ids))
        for source in range(
            len(counts)
        ):  # nobody waits: all rows of a source have been seen equally often, but for one
            assert np.ptp(seen[ids == source]) <= 1
    assert seen.min() >= 1 or weights is not None


@pytest.mark.parametrize(("counts", "weights", "size"), CASES)
def test_stratified_batches_hold_each_source_at_its_share(counts, weights, size) -> None:
    ids = mixed(counts)
    batches = MixtureBatches(ids, weights, size, seed=0)
    for epoch in range(3):
        parts = batches.epoch(epoch)
        sizes = [len(rows) for rows in parts]
        assert len(parts) == -(-len(ids) // size)
        assert max(sizes) - min(sizes) <= 1
        for rows in parts:
            exact = len(rows) * batches.rows_per_epoch / len(ids)
            held = np.bincount(ids[rows], minlength=len(counts))
            assert (np.floor(exact) <= held).all()
            assert (held <= np.floor(exact) + 1).all()
    if len(counts) > 1 and weights and abs(batches.rows_per_epoch - counts).max() > 0.1 * len(ids):
        plain = RandomBatches(len(ids), size, seed=0).epoch(0)
        held = np.stack([np.bincount(ids[rows], minlength=len(counts)) / len(rows) for rows in plain])
        assert abs(held - batches.rows_per_epoch / len(ids)).max() > 0.05, "control: plain batches know no weights"


@pytest.mark.parametrize(("counts", "weights", "size"), CASES)
def test_a_batch_may_be_of_one_source(counts, weights, size) -> None:
    ids = mixed(counts)
    parts = MixtureBatches(ids, weights, size, seed=0, mixing="per_source").epoch(0)
    assert all(len(set(ids[rows].tolist())) == 1 for rows in parts)
    order = [int(ids[rows[0]]) for rows in parts]
    if len(counts) > 1 and len(parts) > 6:
        assert order != sorted(order), "sources come mixed"
        stratified = MixtureBatches(ids, weights, size, seed=0).epoch(0)
        assert any(len(set(ids[rows].tolist())) > 1 for rows in stratified), "control"


@pytest.mark.parametrize("mixing", ["stratified", "per_source"])
def test_an_epoch_depends_on_seed_and_number_alone(mixing: str) -> None:
    ids = mixed([70, 25])

    def epoch(seed: int, number: int) -> list[list[int]]:
        return as_lists(MixtureBatches(ids, [1, 1], 16, seed=seed, mixing=mixing).epoch(number))

    used = MixtureBatches(ids, [1, 1], 16, seed=0, mixing=mixing)
    for number in range(5):
        assert as_lists(used.epoch(number)) == epoch(0, number)
    assert epoch(0, 5) != epoch(0, 4)
    assert epoch(0, 5) != epoch(1, 5)


def test_each_turn_of_a_small_source_has_another_order() -> None:
    ids = mixed([400, 60])
    batches = MixtureBatches(ids, [1, 1], 20, seed=0)
    drawn = [row for number in range(2) for rows in batches.epoch(number) for row in rows.tolist() if ids[row] == 1]
    turns = [drawn[start : start + 60] for start in range(0, 420, 60)]
    assert len({tuple(turn) for turn in turns}) == 7
    pairs = {tuple(sorted(pair)) for turn in turns for pair in pairwise(turn)}
    assert len(pairs) > 350, "other rows meet"


def test_two_processes_share_every_batch_out() -> None:
    ids = mixed([90, 30])
    for rows in MixtureBatches(ids, [1, 1], 20, seed=0).epoch(1):
        parts = [MixtureBatches.share(rows, rank=rank, world_size=2) for rank in range(2)]
        assert np.concatenate(parts).tolist() == rows.tolist()
        assert abs(len(parts[0]) - len(parts[1])) <= 1
    together = [
        np.bincount(ids[MixtureBatches.share(rows, rank=0, world_size=2)], minlength=2)
        for number in range(40)
        for rows in MixtureBatches(ids, [1, 1], 20, seed=0).epoch(number)
    ]
    assert abs(np.mean(together, axis=0) - 5).max() < 0.5, "each process reads of every source"


def test_a_large_mixture_is_dealt_quickly() -> None:
    ids = np.repeat([0, 1, 2], [300_000, 50_000, 1_000])
    batches = MixtureBatches(ids, [1, 1, 0.05], 512, seed=0)
    drawn = np.concatenate(batches.epoch(7))
    assert np.bincount(ids[drawn]).tolist() == batches.rows_per_epoch.tolist()


def test_what_cannot_be_mixed_is_told() -> None:
    ids = mixed([40, 4])
    with pytest.raises(ConfigError, match=r"photos has 4 row\(s\), and its share of a batch is 8: .* train.batch_size"):
        MixtureBatches(ids, [1, 1], 16, seed=0, names=["drawings", "photos"])
    assert len(MixtureBatches(ids, [1, 1], 16, seed=0, mixing="per_source")) == 2 + 6  # in batches of four
    with pytest.raises(ConfigError, match="weights are .*; want one above 0 for each of 2"):
        MixtureBatches(ids, [1, 0], 16, seed=0)
    with pytest.raises(ConfigError, match="want one above 0 for each of 2"):
        MixtureBatches(ids, [1, 1, 1], 16, seed=0)
    with pytest.raises(ConfigError, match="source 1: its weight gives it none of an epoch's 44 rows"):
        MixtureBatches(ids, [1, 1e-6], 16, seed=0)
    with pytest.raises(ConfigError, match="mixing is 'shaken'"):
        MixtureBatches(ids, [1, 1], 16, seed=0, mixing="shaken")
    with pytest.raises(ConfigError, match="1 usable row"):
        MixtureBatches([0], [1], 16, seed=0)
