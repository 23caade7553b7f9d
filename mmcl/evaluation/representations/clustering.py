"""`ClusterEvaluator`: do the embeddings fall into the labels' groups by themselves?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.bootstrap import mean_ci95
from mmcl.evaluation.evaluator import Metrics, need_both_modalities, text_embeddings
from mmcl.evaluation.metrics.clustering import ari, hungarian_accuracy, matched, nmi
from mmcl.evaluation.representations.labelled import labelled_images, need_images, need_labels, need_two_classes
from mmcl.evaluation.retrieval.evaluator import distinct_captions
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder

log = get_logger(__name__)

METHODS = ("kmeans", "hdbscan")
# Above this many rows k-means sees them batch by batch, which finds slightly worse clusters much sooner.
MINI_BATCH_ABOVE = 20_000
# HDBSCAN compares all pairs, and in hundreds of dimensions all densities are alike.
HDBSCAN_ROWS = 10_000
HDBSCAN_DIMENSIONS = 32
MIN_CLUSTER_SIZE = 5
SILHOUETTE_ROWS = 2_000
_SHUFFLES = 10


class ClusterEvaluator:
    """Clusters of the embeddings against the column ``label``.

    ``kmeans`` is run with several seeds on the unit vectors, in mini-batches of 1,024 above 20,000 rows. ``hdbscan``
    finds the number of clusters by itself, in the first 32 principal components and, above 10,000 rows, on a sample of
    these; what it leaves unclustered is one more cluster for NMI and ARI and wrong for the accuracy.

    Rows without a label are left out and counted.

    Args:
        dataset: with a column ``label``.
        batch_size: items a forward pass.
        clusters: of k-means; None: as many as labels.
        methods: of ``METHODS``, at least one.
        modality: "image", or "text": the distinct captions of each group, with their row's label.
        seeds: runs of k-means.
        restarts: of each run, of which the tightest counts.

    Raises:
        DataError: no row has a label.
        ConfigError: an unknown method or modality, fewer than two clusters, or no run.

    Source:
        ``sklearn.cluster``: KMeans, MiniBatchKMeans, and HDBSCAN (Campello, Moulavi & Sander 2013) with at least 5 rows
        a cluster.
    """

    def __init__(
        self,
        dataset: ImageTextDataset,
        *,
        batch_size: int = 64,
        clusters: int | None = None,
        methods: Sequence[str] = METHODS,
        modality: str = "image",
        seeds: int = 5,
        restarts: int = 3,
    ) -> None:
        unknown = [name for name in methods if name not in METHODS]
        if unknown or not methods:
            raise ConfigError(f"methods needs some of {', '.join(METHODS)}, got {', '.join(methods) or 'none'}")
        if modality not in ("image", "text"):
            raise ConfigError(f"modality needs to be 'image' or 'text', got {modality!r}")
        if clusters is not None and clusters < 2:
            raise ConfigError(f"clusters needs to be at least 2, got {clusters}")
        if seeds < 1 or restarts < 1:
            raise ConfigError(f"seeds and restarts need to be at least 1, got {seeds} and {restarts}")
        need_labels(dataset, "clustering")
        self.dataset, self.batch_size, self.modality = dataset, batch_size, modality
        self.clusters, self.methods, self.seeds, self.restarts = clusters, tuple(methods), seeds, restarts
        self.primary_metric = "clusters/nmi" if "kmeans" in methods else "clusters/hdbscan_nmi"

    def __call__(self, embedder: Embedder) -> Metrics:
        """Embed, cluster and compare.

        Args:
            embedder: of images; for the modality "text" also of texts.

        Returns:
            Of k-means, means over the seeds: ``clusters/nmi``, ``ari``, ``accuracy`` (best one-to-one matching of
            clusters to labels), each with ``_std`` (left out for one seed); ``accuracy_ci95`` over groups, clusters and
            matching held fixed; ``chance_nmi`` and ``chance_accuracy``, the same of shuffled clusters;
            ``silhouette`` (cosine, of the first seed's clusters on at most 2,000 rows; left out where all rows are one
            cluster); ``num_clusters``. Of HDBSCAN: ``hdbscan_nmi``, ``hdbscan_ari``, ``hdbscan_accuracy``,
            ``hdbscan_noise`` (the share left unclustered), ``hdbscan_num_clusters``, ``hdbscan_num_rows``. And
            ``majority`` (the share of the largest label), ``num_items``, ``num_classes``, ``num_skipped``,
            ``num_unlabelled``.

        Raises:
            ConfigError: the embedder lacks the modality.
            DataError: no labelled image is readable, all have one label, or there are more clusters than rows.
            ShapeError: an embedding is not finite.
        """
        need_images(embedder, "clustering")
        points, labels, groups, counts = self._points(embedder)
        metrics: Metrics = {
            "clusters/majority": int(torch.bincount(labels).max()) / len(labels),
            "clusters/num_items": float(len(labels)),
            "clusters/num_classes": float(len(labels.unique())),
            **counts,
        }
        if "kmeans" in self.methods:
            metrics |= self._kmeans(points, labels, groups)
        if "hdbscan" in self.methods:
            metrics |= _hdbscan_metrics(points, labels)
        return metrics

    def _points(self, embedder: Embedder) -> tuple[Tensor, Tensor, Tensor, Metrics]:
        """Embeddings (n, d), labels (n,), groups (n,), and what was left out."""
        images = labelled_images(embedder, self.dataset, batch_size=self.batch_size)
        need_two_classes(images.labels, name=self.dataset.name, task="clustering")
        number = {label: index for index, label in enumerate(sorted(set(images.labels)))}
        labels = torch.tensor([number[label] for label in images.labels], dtype=torch.int64)
        counts: Metrics = {
            "clusters/num_skipped": float(images.num_skipped),
            "clusters/num_unlabelled": float(images.num_unlabelled),
        }
        if self.modality == "image":
            return images.embeddings, labels, images.groups, counts
        need_both_modalities(embedder, "clustering of texts")
        captions, position = distinct_captions(self.dataset, images.rows.numpy(), images.groups)
        distinct, index = text_embeddings(embedder, captions, batch_size=self.batch_size)
        return distinct[torch.tensor(index)], labels[position], images.groups[position], counts

    def _kmeans(self, points: Tensor, labels: Tensor, groups: Tensor) -> Metrics:
        number = self.clusters or len(labels.unique())
        if number > len(points):
            raise DataError(f"{self.dataset.name}: {number} clusters of {len(points)} items; ask for fewer clusters")
        runs = [kmeans(points, number, seed=seed, restarts=self.restarts) for seed in range(self.seeds)]
        hits = torch.stack([matched(clusters, labels).double() for clusters in runs])  # (seeds, n)
        values = {
            "nmi": torch.tensor([nmi(clusters, labels) for clusters in runs], dtype=torch.float64),
            "ari": torch.tensor([ari(clusters, labels) for clusters in runs], dtype=torch.float64),
            "accuracy": hits.mean(1),
        }
        metrics: Metrics = {f"clusters/{name}": float(value.mean()) for name, value in values.items()}
        if self.seeds > 1:
            metrics |= {f"clusters/{name}_std": float(value.std()) for name, value in values.items()}
        metrics["clusters/accuracy_ci95"] = mean_ci95(hits.mean(0), groups)
        metrics["clusters/num_clusters"] = float(number)
        return metrics | _by_chance(runs[0], labels) | _silhouette(points, runs[0])


def kmeans(points: Tensor, clusters: int, *, seed: int = 0, restarts: int = 3) -> Tensor:
    """k-means by scikit-learn, from k-means++ starts; in mini-batches of 1,024 above 20,000 rows.

    Args:
        points: (n, d) float32, n at least ``clusters``.
        clusters: k.
        seed: of the starts.
        restarts: starts, of which the tightest result counts.

    Returns:
        (n,) int64 in [0, k). Fewer clusters than k where fewer points differ.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans

    few = len(points) <= MINI_BATCH_ABOVE
    method: Any = KMeans if few else MiniBatchKMeans
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters: fewer clusters come out, and count
        found = method(n_clusters=clusters, n_init=restarts, random_state=seed).fit_predict(points.numpy())
    return torch.from_numpy(found).long()


def hdbscan(points: Tensor) -> Tensor:
    """HDBSCAN by scikit-learn, in the first 32 principal components.

    Args:
        points: (n, d) float32.

    Returns:
        (n,) int64: clusters from 0, and -1 for what is left unclustered; all -1 for fewer than 5 points.
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    if len(points) < MIN_CLUSTER_SIZE:
        return torch.full((len(points),), -1)
    if not (points != points[0]).any():
        return torch.zeros(len(points), dtype=torch.int64)  # one place has no density to compare
    array = points.numpy()
    dimensions = min(HDBSCAN_DIMENSIONS, *array.shape)
    if dimensions < array.shape[1]:
        array = PCA(dimensions, random_state=0).fit_transform(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = HDBSCAN(min_cluster_size=MIN_CLUSTER_SIZE, copy=True).fit_predict(array)
    return torch.from_numpy(found).long().clamp(min=-1)


def _hdbscan_metrics(points: Tensor, labels: Tensor) -> Metrics:
    if len(points) > HDBSCAN_ROWS:
        log.info("HDBSCAN on %d of %d rows", HDBSCAN_ROWS, len(points))
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:HDBSCAN_ROWS]
        points, labels = points[chosen], labels[chosen]
    clusters = hdbscan(points)
    return {
        "clusters/hdbscan_nmi": nmi(clusters, labels),
        "clusters/hdbscan_ari": ari(clusters, labels),
        "clusters/hdbscan_accuracy": hungarian_accuracy(clusters, labels),
        "clusters/hdbscan_noise": float((clusters < 0).double().mean()),
        "clusters/hdbscan_num_clusters": float(len(clusters[clusters >= 0].unique())),
        "clusters/hdbscan_num_rows": float(len(clusters)),
    }


def _by_chance(clusters: Tensor, labels: Tensor) -> Metrics:
    """What clusters of the same sizes score that have nothing to do with the labels."""
    generator = torch.Generator().manual_seed(0)
    shuffled = [clusters[torch.randperm(len(clusters), generator=generator)] for _ in range(_SHUFFLES)]
    return {
        "clusters/chance_nmi": sum(nmi(one, labels) for one in shuffled) / _SHUFFLES,
        "clusters/chance_accuracy": sum(hungarian_accuracy(one, labels) for one in shuffled) / _SHUFFLES,
    }


def _silhouette(points: Tensor, clusters: Tensor) -> Metrics:
    from sklearn.metrics import silhouette_score

    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:SILHOUETTE_ROWS]
    points, clusters = points[chosen], clusters[chosen]
    if not 1 < len(clusters.unique()) < len(clusters):
        return {}
    return {"clusters/silhouette": float(silhouette_score(points.numpy(), clusters.numpy(), metric="cosine"))}
