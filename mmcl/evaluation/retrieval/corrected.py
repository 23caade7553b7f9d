"""Retrieval with hubness corrected, under names of its own, and what it gains over the model alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics.retrieval import NDCG_DEPTH, hit_rate
from mmcl.evaluation.paired import paired_differences
from mmcl.evaluation.retrieval.directions import judge_both_ways
from mmcl.evaluation.retrieval.galleries import Galleries
from mmcl.evaluation.retrieval.hubness import (
    CSLS_K,
    csls_penalty,
    hub_figures,
    inverted_softmax_penalty,
    near_a_hub,
    penalised,
)
from mmcl.evaluation.retrieval.ranking import Ranks, positive_ranks

if TYPE_CHECKING:
    from mmcl.evaluation.retrieval.evaluator import RetrievalResult

# What must be said wherever these figures are shown.
NOTES = {
    "csls": (
        "CSLS looks at the whole gallery and at the other queries: a figure of all of them together, which no single "
        "query gets; compare it with other corrected figures alone."
    ),
    "querybank": (
        "Querybank normalisation looks at the whole gallery and at a bank of queries of other data; compare it with "
        "other corrected figures alone."
    ),
}

# Queries and gallery to vectors whose products are the corrected scores.
Correction = Callable[[Tensor, Tensor, str], tuple[Tensor, Tensor]]


def judge_csls(result: RetrievalResult, *, k: int = CSLS_K, ks: Sequence[int], confidence: bool = True) -> Metrics:
    """Both directions ranked by CSLS (arXiv:1710.04087), and how unevenly the galleries were found before and after.

    Args:
        result: of the model alone.
        k: neighbours.
        ks: cut-offs of recall.
        confidence: also give 95 % intervals.

    Returns:
        ``retrieval/csls_*`` for every metric of `judge_both_ways`; ``retrieval/csls_i2t_recall@1_gain`` and the like,
        the paired difference to the model alone, with their ``_ci95``; and for both directions
        ``retrieval/hubness_i2t`` and ``retrieval/never_found_i2t`` of `hub_figures` (the captions that images find),
        and the same with ``csls_`` in front.

    Raises:
        ConfigError: ``k`` is below 1.
    """

    def correct(queries: Tensor, gallery: Tensor, way: str) -> tuple[Tensor, Tensor]:
        return penalised(queries, gallery, csls_penalty(gallery, queries, k=k))

    return _judge(result, correct, name="csls", hubs=k, ks=ks, confidence=confidence)


def judge_querybank(result: RetrievalResult, bank: Galleries, *, ks: Sequence[int], confidence: bool = True) -> Metrics:
    """Both directions under querybank normalisation (arXiv:2112.12777): an inverted softmax over queries of a bank.

    Only queries that find a hub of the bank (`near_a_hub`) are corrected. It needs no other query of the data that are
    judged: each query could be asked alone.

    Args:
        result: of the model alone.
        bank: images and captions of other data, such as the training split.
        ks: cut-offs of recall.
        confidence: also give 95 % intervals.

    Returns:
        ``retrieval/querybank_*`` as `judge_csls` gives ``retrieval/csls_*``.
    """
    banks = {"i2t": bank.images, "t2i": bank.texts}

    def correct(queries: Tensor, gallery: Tensor, way: str) -> tuple[Tensor, Tensor]:
        penalty = inverted_softmax_penalty(gallery, banks[way])
        return penalised(queries, gallery, penalty, active=near_a_hub(queries, gallery, banks[way]))

    return _judge(result, correct, name="querybank", hubs=CSLS_K, ks=ks, confidence=confidence)


def _judge(
    result: RetrievalResult, correct: Correction, *, name: str, hubs: int, ks: Sequence[int], confidence: bool
) -> Metrics:
    galleries = result.galleries
    images, texts = (galleries.images, galleries.image_groups), (galleries.texts, galleries.text_groups)
    metrics: Metrics = {}
    ranked: dict[str, Ranks] = {}
    for way, (queries, query_groups), (gallery, gallery_groups) in (("i2t", images, texts), ("t2i", texts, images)):
        if not (len(queries) and len(gallery)):
            return {}
        left, right = correct(queries, gallery, way)
        ranked[way] = positive_ranks(left, right, query_groups, gallery_groups, depth=max(*ks, NDCG_DEPTH))
        for prefix, pair in (("", (queries, gallery)), (f"{name}_", (left, right))):
            found = hub_figures(*pair, k=hubs)
            metrics |= {f"retrieval/{prefix}{key}_{way}": value for key, value in found.items()}
        metrics |= _gains(getattr(result, way), ranked[way], query_groups, f"{name}_{way}", ks, confidence=confidence)
    judged = judge_both_ways(ranked["i2t"], ranked["t2i"], images[1], texts[1], ks=ks, confidence=confidence)
    return {f"retrieval/{name}_{key.removeprefix('retrieval/')}": value for key, value in judged.items()} | metrics


def _gains(
    alone: Ranks, corrected: Ranks, groups: Tensor, name: str, ks: Sequence[int], *, confidence: bool
) -> Metrics:
    """Recall with the correction less recall without, over the same queries."""
    if not len(alone):
        return {}
    before, after = (torch.stack([hit_rate(ranks, k) for k in ks], dim=1) for ranks in (alone, corrected))
    if not confidence:
        return {f"retrieval/{name}_recall@{k}_gain": float(d) for k, d in zip(ks, (after - before).mean(0))}
    metrics: Metrics = {}
    for k, paired in zip(ks, paired_differences(before, after, groups[alone.queries])):
        metrics[f"retrieval/{name}_recall@{k}_gain"] = paired.difference
        metrics[f"retrieval/{name}_recall@{k}_gain_ci95"] = paired.ci95
    return metrics
