"""Retrieval within one modality: images find images of their group, captions find captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics.retrieval import NDCG_DEPTH
from mmcl.evaluation.retrieval.directions import judge_way
from mmcl.evaluation.retrieval.ranking import positive_ranks


def judge_same_modality(
    embeddings: Tensor, groups: Tensor, *, name: str, ks: Sequence[int], confidence: bool = True
) -> Metrics:
    """How well items find the others of their group among all other items.

    An item is no answer to itself: it is taken out of its own gallery of n - 1 items, exactly. A query whose group
    holds no other item is unanswerable: it is in no metric, and counted. Ties count against the model.

    Args:
        embeddings: (n, d) floating.
        groups: (n,) integer.
        name: of the metrics, ``i2i`` or ``t2t``.
        ks: cut-offs of recall.
        confidence: also give 95 % intervals.

    Returns:
        ``retrieval/<name>_recall@k`` and the others of `judge_way`, with ``retrieval/<name>_unanswerable``; nothing
        where no query is answerable, and then nothing is ranked either.

    Raises:
        ShapeError: shapes do not fit, or an embedding is not finite.

    Example:
        >>> metrics = judge_same_modality(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]), name="i2i", ks=(1,))
        >>> metrics["retrieval/i2i_recall@1"]
        1.0
    """
    if len(groups) == 0 or int(torch.unique(groups, return_counts=True)[1].max()) < 2:
        return {}
    depth = max(*ks, NDCG_DEPTH)
    ranks = positive_ranks(embeddings, embeddings, groups, groups, depth=depth, exclude_self=True)
    metrics, _ = judge_way(ranks, groups, name=name, ks=ks, confidence=confidence)
    return metrics
