"""Retrieval metrics of `Ranks`: one number a query, (q,) float64, over the queries that have a positive.

The mean over queries is the metric, except for `median_rank`; mean and median rank are better where they are lower.
Without any such query there is nothing to average: each function then returns an empty tensor (`median_rank` raises).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.retrieval.ranking import Ranks

NDCG_DEPTH = 10


def hit_rate(ranks: Ranks, k: int) -> Tensor:
    """``recall@k`` as CLIP papers print it: 1 where at least one positive is among the first k, else 0.

    Args:
        ranks: from `positive_ranks`.
        k: at least 1.

    Returns:
        (q,) float64.

    Raises:
        ConfigError: k is below 1.

    Source:
        the recall@k of Karpathy & Fei-Fei 2015 for five captions an image, as CLIP (Radford et al. 2021) reports it.
        `true_recall` is the textbook's recall, another number as soon as a query has two positives.

    Example:
        >>> from mmcl.evaluation.retrieval.ranking import positive_ranks
        >>> hit_rate(positive_ranks(torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2)), 1)
        tensor([1., 1.], dtype=torch.float64)
    """
    _check_k(k)
    return (ranks.first() < k).double()


def true_recall(ranks: Ranks, k: int) -> Tensor:
    """The share of a query's positives that are among the first k; below 1 by necessity where it has more than k.

    Args:
        ranks: from `positive_ranks`, with a ``depth`` of at least k.
        k: at least 1.

    Returns:
        (q,) float64.

    Raises:
        ConfigError: k is below 1, or above the depth that ``ranks`` was computed to.
    """
    _check_k(k, ranks)
    return _sum_by_query(ranks, (ranks.ranks < k).double()) / ranks.num_positives


def reciprocal_rank(ranks: Ranks) -> Tensor:
    """1 / (1 + rank of the best positive), over the whole gallery; its mean is the MRR.

    Returns:
        (q,) float64.
    """
    return 1.0 / (ranks.first() + 1).double()


def ndcg(ranks: Ranks, k: int = NDCG_DEPTH) -> Tensor:
    """Normalised discounted cumulative gain at k with gain 1 for a positive and 0 for a negative.

    ``sum over positives with rank < k of 1 / log2(rank + 2)``, divided by the same sum for the best possible order,
    in which ``min(num_positives, k)`` positives come first.

    Args:
        ranks: from `positive_ranks`, with a ``depth`` of at least k.
        k: at least 1.

    Returns:
        (q,) float64.

    Raises:
        ConfigError: k is below 1, or above the depth that ``ranks`` was computed to.

    Source:
        Järvelin & Kekäläinen 2002, with binary gains.
    """
    _check_k(k, ranks)
    gains = torch.where(ranks.ranks < k, 1.0 / (ranks.ranks + 2).double().log2(), 0.0)
    ideal = (1.0 / torch.arange(2, k + 2).double().log2()).cumsum(0)  # (k,)
    return _sum_by_query(ranks, gains) / ideal[ranks.num_positives.clamp(max=k) - 1]


def average_precision(ranks: Ranks, k: int | None = NDCG_DEPTH) -> Tensor:
    """Average precision at k: ``sum over positives with rank r < k of (positives up to r) / (r + 1)``, divided by
    ``min(num_positives, k)``; its mean is the mAP@k.

    Dividing by ``min(num_positives, k)`` lets a perfect ranking reach 1 (as Kaggle's mAP@k does). TREC divides by
    ``num_positives``, torchmetrics by the number of positives found: their values differ from these. Over the whole
    gallery all three are one.

    Args:
        ranks: from `positive_ranks`, with a ``depth`` of at least k.
        k: at least 1. None: over the whole gallery, which any ``depth`` allows.

    Returns:
        (q,) float64.

    Raises:
        ConfigError: k is below 1, or above the depth that ``ranks`` was computed to.
    """
    if k is None:
        return ranks.average_precision
    _check_k(k, ranks)
    nth = torch.arange(len(ranks.ranks)) - ranks.offsets[ranks.query_of_rank()] + 1  # (p,) positives up to this one
    precision = torch.where(ranks.ranks < k, nth.double() / (ranks.ranks + 1).double(), 0.0)
    return _sum_by_query(ranks, precision) / ranks.num_positives.clamp(max=k)


def r_precision(ranks: Ranks) -> Tensor:
    """Precision at R, R being the query's number of positives: ``(positives among the first R) / R``.

    Args:
        ranks: from `positive_ranks`, of any ``depth``.

    Returns:
        (q,) float64.

    Source:
        Manning, Raghavan & Schütze 2008, "Introduction to Information Retrieval", section 8.4.

    Example:
        >>> from mmcl.evaluation.retrieval.ranking import positive_ranks
        >>> r_precision(positive_ranks(torch.eye(2), torch.eye(2), torch.arange(2), torch.arange(2)))
        tensor([1., 1.], dtype=torch.float64)
    """
    return ranks.num_early / ranks.num_positives.double()


def best_rank(ranks: Ranks) -> Tensor:
    """The rank of a query's best positive, counted from 1; its mean is the mean rank, its median the median rank.

    Returns:
        (q,) float64.
    """
    return (ranks.first() + 1).double()


def median_rank(ranks: Ranks) -> float:
    """The median over queries of the best positive's rank, counted from 1 (the mean of the middle two if even).

    Raises:
        ShapeError: no query has a positive.
    """
    if not len(ranks):
        raise ShapeError("median_rank needs at least one query with a positive in the gallery, got none")
    return float(np.median(best_rank(ranks).numpy()))


def chance_hit_rate(num_positives: Tensor, gallery_size: int, k: int) -> Tensor:
    """The hit rate at k expected of a random order of the gallery: ``1 - C(m - p, k) / C(m, k)``, hypergeometric.

    Args:
        num_positives: (q,) integer, each between 1 and ``gallery_size``.
        gallery_size: m.
        k: at least 1; at or above m every query hits.

    Returns:
        (q,) float64.

    Raises:
        ConfigError: k is below 1.

    Example:
        >>> chance_hit_rate(torch.tensor([1, 2]), 4, 1)
        tensor([0.2500, 0.5000], dtype=torch.float64)
    """
    _check_k(k)
    miss = torch.ones(len(num_positives), dtype=torch.float64)
    for drawn in range(min(k, gallery_size)):
        miss *= (gallery_size - num_positives - drawn).clamp(min=0).double() / (gallery_size - drawn)
    return 1.0 - miss


def query_metrics(ranks: Ranks, ks: Sequence[int]) -> dict[str, Tensor]:
    """Every metric that is a mean over queries, by its name.

    Those are recall and true recall at ``ks``, mrr, ndcg@10, map@10, map (over the whole gallery), r_precision and
    mean_rank (from 1; the only one that is better where it is lower).

    Args:
        ranks: from `positive_ranks`, with a ``depth`` of at least ``max(10, *ks)``.
        ks: cut-offs.

    Returns:
        Each (q,) float64.
    """
    values = {f"recall@{k}": hit_rate(ranks, k) for k in ks}
    values |= {f"true_recall@{k}": true_recall(ranks, k) for k in ks}
    values["mrr"] = reciprocal_rank(ranks)
    values[f"ndcg@{NDCG_DEPTH}"] = ndcg(ranks)
    values[f"map@{NDCG_DEPTH}"] = average_precision(ranks)
    values["map"] = average_precision(ranks, None)
    values["r_precision"] = r_precision(ranks)
    values["mean_rank"] = best_rank(ranks)
    return values


def _check_k(k: int, ranks: Ranks | None = None) -> None:
    if k < 1:
        raise ConfigError(f"k needs to be at least 1, got {k}")
    if ranks is not None and ranks.depth is not None and k > ranks.depth:
        raise ConfigError(f"k={k} needs ranks up to {k}, these were computed with depth={ranks.depth}; raise depth")


def _sum_by_query(ranks: Ranks, values: Tensor) -> Tensor:
    """(q,) sums of one value (p,) a positive."""
    return torch.zeros(len(ranks), dtype=torch.float64).index_add_(0, ranks.query_of_rank(), values)
