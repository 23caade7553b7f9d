"""Batches of neighbours: k-means on embeddings, and batches filled from one cluster or a few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl.errors import ConfigError, ShapeError
from mmcl.negatives.samplers import BatchSampler, check_batches
from mmcl.negatives.unique_groups import as_codes

BATCHES_PER_CLUSTER = 4  # by default: neighbours meet, and other neighbours every epoch


class ClusterBatches(BatchSampler):
    """Every row once an epoch, each batch filled from one cluster or a few, so that neighbours meet.

    Clusters in random order, and rows in random order within them, are cut into pieces of ``batch_size /
    clusters_per_batch`` rows; a batch takes ``clusters_per_batch`` pieces at random. A piece that begins at a cluster's
    end goes on in the next cluster: no row is dropped or repeated, and the sizes of batches differ by one at most.

    Hard negatives are the neighbours of a row; a batch of one cluster is made of them.

    Source: Merrick 2024, Embedding And Clustering Your Data Can Improve Contrastive Pretraining (arXiv:2407.18887).
        Deviation: what is left of a cluster is joined with the next one's rows, and ``clusters_per_batch``.

    Args:
        cluster_ids: (n,) integers, n >= 2: the cluster of each row, see ``cluster_embeddings``.
        batch_size: largest batch, over all processes.
        seed: of the order.
        clusters_per_batch: pieces a batch is made of; more make easier negatives.

    Raises:
        ConfigError: fewer than two rows, a batch of fewer than two, ids that are no (n,) integers, or
            ``clusters_per_batch`` not in [1, batch_size].

    Example:
        >>> batches = ClusterBatches([5, 9, 5, 9], 2, seed=0)
        >>> sorted(sorted(rows.tolist()) for rows in batches.epoch(0))
        [[0, 2], [1, 3]]
    """

    def __init__(
        self, cluster_ids: Sequence[int] | np.ndarray, batch_size: int, *, seed: int, clusters_per_batch: int = 1
    ) -> None:
        self.clusters = as_codes(cluster_ids, name="cluster_ids")
        self.num_rows, self.batch_size, self.seed = len(self.clusters), batch_size, seed
        check_batches(self.num_rows, batch_size)
        if not 1 <= clusters_per_batch <= batch_size:
            raise ConfigError(f"clusters_per_batch is {clusters_per_batch}; want 1 to batch_size ({batch_size})")
        self.clusters_per_batch = clusters_per_batch

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.num_rows // self.batch_size)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch: row numbers, whole batches over all processes."""
        draw = np.random.default_rng([self.seed, epoch])
        order = draw.permutation(self.num_rows)
        keys = draw.permutation(int(self.clusters.max()) + 1)[self.clusters]
        order = order[np.argsort(keys[order], kind="stable")]
        sizes = _even(np.array([self.num_rows]), len(self))  # (B,) rows of each batch
        pieces = _even(sizes, self.clusters_per_batch)  # (B * c,), batch by batch
        cut = draw.permutation(len(pieces))  # which piece comes where in the order of clusters
        ends = np.cumsum(pieces[cut])
        parts = np.empty(len(pieces), dtype=object)
        parts[cut] = np.split(order, ends[:-1]) if len(pieces) > 1 else [order]
        batches = [np.concatenate(own) for own in parts.reshape(len(self), self.clusters_per_batch)]
        return [draw.permutation(batch) for batch in batches]  # no process gets a cluster of its own


def _even(totals: np.ndarray, parts: int) -> np.ndarray:
    """Each total as so many nearly equal integers: (t,) -> (t * parts,)."""
    return (totals[:, None] // parts + (np.arange(parts) < totals[:, None] % parts)).reshape(-1)


def default_clusters(num_rows: int, batch_size: int) -> int:
    """How many clusters where none are asked for: of four batches each on the average, at least two."""
    return max(2, round(num_rows / (batch_size * BATCHES_PER_CLUSTER)))


def cluster_embeddings(embeddings: np.ndarray, num_clusters: int, *, seed: int) -> np.ndarray:
    """The cluster of each embedding, by mini-batch k-means.

    On unit rows squared distance is ``2 - 2 * cosine``: clusters are neighbourhoods by cosine.

    Args:
        embeddings: (n, d) floating, finite.
        num_clusters: k in [1, n].
        seed: of the start; the same embeddings and seed give the same clusters.

    Returns:
        (n,) int64 in [0, num_clusters). A cluster may be empty where embeddings coincide.

    Raises:
        ShapeError: ``embeddings`` is no finite floating matrix.
        ConfigError: ``num_clusters`` is not in [1, n].

    Source: Sculley 2010, Web-scale k-means clustering (scikit-learn's MiniBatchKMeans).

    Example:
        >>> ids = cluster_embeddings(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), 2, seed=0)
        >>> bool(ids[0] == ids[1] != ids[2] == ids[3])
        True
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not np.isfinite(embeddings).all():
        raise ShapeError(
            f"embeddings have shape {embeddings.shape} and type {embeddings.dtype}; want finite numbers (n, d)"
        )
    if not 1 <= num_clusters <= len(embeddings):
        raise ConfigError(
            f"num_clusters is {num_clusters}; want 1 to {len(embeddings)}, the number of embeddings (batches.clusters)"
        )
    from sklearn.cluster import MiniBatchKMeans

    # n_init: several starts on samples; the best goes on, so that one unlucky start does not decide.
    means = MiniBatchKMeans(num_clusters, random_state=seed, n_init=3, batch_size=max(1024, 4 * num_clusters))
    return means.fit_predict(np.ascontiguousarray(embeddings, dtype=np.float32)).astype(np.int64)
