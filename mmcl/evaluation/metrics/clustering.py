"""Clustering metrics: clusters (n,) against labels (n,), both integer ids.

Clusters below 0 hold what a method left unclustered (HDBSCAN's noise): `nmi` and `ari` take it for one cluster more,
`matched` counts each such row as wrong.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.evaluation.checks import check_ids


def nmi(clusters: Tensor, labels: Tensor) -> float:
    """Normalised mutual information: ``I(clusters; labels) / ((H(clusters) + H(labels)) / 2)``, in [0, 1].

    It grows with the number of clusters even where they are drawn at random: compare with shuffled clusters.

    Args:
        clusters: (n,) integer, n at least 1.
        labels: (n,) integer.

    Returns:
        0 where one of the two holds a single id and the other several; 1 where both hold a single one.

    Raises:
        ShapeError: shapes or dtypes do not fit, or there is no row.

    Source:
        ``sklearn.metrics.normalized_mutual_info_score`` with the arithmetic mean. Strehl & Ghosh 2002 divide by the
        geometric one.

    Example:
        >>> nmi(torch.tensor([5, 5, 7]), torch.tensor([0, 0, 1]))
        1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    clusters, labels = _check(clusters, labels)
    value = float(normalized_mutual_info_score(labels.numpy(), clusters.numpy()))
    return min(1.0, max(0.0, value))  # rounding reaches a few 1e-16 beyond


def ari(clusters: Tensor, labels: Tensor) -> float:
    """Adjusted Rand index: the share of pairs of rows that both group alike, 0 where by chance, 1 where all.

    Args:
        clusters: (n,) integer, n at least 1.
        labels: (n,) integer.

    Returns:
        In [-0.5, 1].

    Raises:
        ShapeError: shapes or dtypes do not fit, or there is no row.

    Source:
        Hubert & Arabie 1985, "Comparing partitions", as ``sklearn.metrics.adjusted_rand_score``.

    Example:
        >>> ari(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 1, 1]))
        0.0
    """
    from sklearn.metrics import adjusted_rand_score

    clusters, labels = _check(clusters, labels)
    return float(adjusted_rand_score(labels.numpy(), clusters.numpy()))


def matched(clusters: Tensor, labels: Tensor) -> Tensor:
    """Which rows are right when each cluster stands for one label and each label for one cluster, at the best.

    Args:
        clusters: (n,) integer, n at least 1; rows below 0 are unclustered and wrong. Of more clusters than labels,
            those left over are wrong.
        labels: (n,) integer.

    Returns:
        (n,) bool; its mean is the clustering accuracy. Where several matchings are best, one of them.

    Raises:
        ShapeError: shapes or dtypes do not fit, or there is no row.

    Source:
        Kuhn 1955, "The Hungarian method for the assignment problem"; the measure as in Xie et al. 2016, "Unsupervised
        Deep Embedding for Clustering Analysis", equation 10.

    Example:
        >>> matched(torch.tensor([1, 1, 0, -1]), torch.tensor([0, 0, 1, 1]))
        tensor([ True,  True,  True, False])
    """
    clusters, labels = _check(clusters, labels)
    from scipy.optimize import linear_sum_assignment

    clustered = clusters >= 0
    right = torch.zeros(len(labels), dtype=torch.bool)
    if clustered.any():
        names, column = labels.unique(return_inverse=True)
        found, row = clusters[clustered].unique(return_inverse=True)
        counts = torch.zeros(len(found), len(names), dtype=torch.int64)
        counts.index_put_((row, column[clustered]), torch.ones_like(row), accumulate=True)
        partner = torch.full((len(found),), -1)
        chosen, partners = linear_sum_assignment(counts.numpy(), maximize=True)
        partner[torch.from_numpy(chosen)] = torch.from_numpy(partners)
        right[clustered] = partner[row] == column[clustered]
    return right


def hungarian_accuracy(clusters: Tensor, labels: Tensor) -> float:
    """The share of rows that are right under the best one-to-one matching of clusters to labels: see `matched`."""
    return float(matched(clusters, labels).double().mean())


def _check(clusters: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    labels = check_ids("labels", labels, length=labels.numel(), of="labels")
    if not len(labels):
        raise ShapeError("labels needs at least one row, got none")
    return check_ids("clusters", clusters, length=len(labels), of="labels"), labels
