"""Batches of neighbours: every row once, each batch of one cluster or a few."""

from __future__ import annotations

import numpy as np
import pytest

from mmcl.errors import ConfigError, ShapeError
from mmcl.negatives.clusters import ClusterBatches, cluster_embeddings, default_clusters


@pytest.mark.parametrize("several", [1, 2, 5])
@pytest.mark.parametrize(("rows", "size"), [(100, 16), (97, 16), (64, 16), (6, 128)])
def test_every_row_once_in_batches_of_nearly_equal_size(rows: int, size: int, several: int) -> None:
    clusters = np.random.default_rng(0).integers(0, 7, rows)
    batches = ClusterBatches(clusters, size, seed=0, clusters_per_batch=several)
    for epoch in range(3):
        parts = batches.epoch(epoch)
        sizes = [len(part) for part in parts]
        assert len(parts) == len(batches) == -(-rows // size)
        assert sorted(np.concatenate(parts).tolist()) == list(range(rows))
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1


def test_neighbours_meet() -> None:
    clusters = np.repeat(np.arange(10), 64)
    draw = np.random.default_rng(0)
    clusters = clusters[draw.permutation(len(clusters))]

    def kinds(several: int) -> list[int]:
        batches = ClusterBatches(clusters, 32, seed=0, clusters_per_batch=several)
        return [len(set(clusters[rows].tolist())) for rows in batches.epoch(0)]

    assert set(kinds(1)) == {1}  # sizes divide: not one stranger
    assert max(kinds(2)) == 2
    assert np.mean(kinds(8)) > 4  # a control: many pieces are nearly random batches
    uneven = np.concatenate([np.zeros(37, int), np.ones(50, int), np.full(13, 2)])
    parts = ClusterBatches(uneven, 10, seed=0).epoch(0)
    assert sum(len(set(uneven[rows].tolist())) for rows in parts) <= len(parts) + 2  # two borders between clusters


def test_order_depends_on_seed_and_epoch_alone() -> None:
    clusters = np.arange(60) % 4

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = ClusterBatches(clusters, 8, seed=seed, clusters_per_batch=2)
        return [rows.tolist() for rows in batches.epoch(epoch)]

    assert order(0, 2) == order(0, 2)
    assert order(0, 2) != order(0, 3)
    assert order(0, 2) != order(1, 2)


def test_rows_of_a_batch_come_mixed() -> None:
    clusters = np.repeat([0, 1], 32)
    rows = ClusterBatches(clusters, 32, seed=0, clusters_per_batch=2).epoch(0)[0]
    assert sorted(clusters[rows].tolist()) != clusters[rows].tolist() != sorted(clusters[rows].tolist(), reverse=True)


def test_clusters_are_neighbourhoods_and_come_again() -> None:
    draw = np.random.default_rng(0)
    centres = np.linalg.qr(draw.standard_normal((8, 8)))[0]
    truth = np.arange(400) % 8
    embeddings = (centres[truth] + 0.05 * draw.standard_normal((400, 8))).astype(np.float32)
    found = cluster_embeddings(embeddings, 8, seed=0)
    assert found.dtype == np.int64
    assert len(set(zip(truth.tolist(), found.tolist()))) == 8  # one cluster a centre
    assert np.array_equal(found, cluster_embeddings(embeddings, 8, seed=0))
    assert cluster_embeddings(embeddings[:3], 1, seed=0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("rows", "size", "clusters"), [(100, 128, 2), (4096, 128, 8), (1_000_000, 1000, 250)])
def test_default_number_of_clusters(rows: int, size: int, clusters: int) -> None:
    assert default_clusters(rows, size) == clusters


def test_what_cannot_be_done_is_told() -> None:
    with pytest.raises(ConfigError, match="usable row"):
        ClusterBatches([0], 4, seed=0)
    for several in (0, 5):
        with pytest.raises(ConfigError, match=f"clusters_per_batch is {several}; want 1 to batch_size"):
            ClusterBatches([0, 1, 2], 4, seed=0, clusters_per_batch=several)
    with pytest.raises(ConfigError, match="cluster_ids"):
        ClusterBatches([0.5, 1.5], 4, seed=0)
    for number in (0, 4):
        with pytest.raises(ConfigError, match=f"num_clusters is {number}; want 1 to 3"):
            cluster_embeddings(np.eye(3), number, seed=0)
    with pytest.raises(ShapeError, match="embeddings have shape"):
        cluster_embeddings(np.full((3, 2), np.nan), 2, seed=0)
    with pytest.raises(ShapeError, match="embeddings have shape"):
        cluster_embeddings(np.zeros(3), 2, seed=0)
