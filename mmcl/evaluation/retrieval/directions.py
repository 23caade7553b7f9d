"""From ranks to named metrics: the means over queries, their intervals, and what chance would score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmcl.evaluation.bootstrap import bootstrap_means, bootstrap_medians, ci95
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics.retrieval import best_rank, chance_hit_rate, median_rank, query_metrics
from mmcl.evaluation.retrieval.ranking import Ranks


def judge_way(
    ranks: Ranks, groups: Tensor, *, name: str, ks: Sequence[int], confidence: bool = True
) -> tuple[Metrics, dict[str, Tensor]]:
    """The metrics of one direction of a retrieval.

    Args:
        ranks: of its queries, with a ``depth`` of at least ``max(10, *ks)``.
        groups: (n,) integer, of all queries; intervals resample whole groups.
        name: of the direction: ``i2t``, ``t2i``, ``i2i`` or ``t2t``.
        ks: cut-offs of recall.
        confidence: also give 95 % intervals.

    Returns:
        ``retrieval/<name>_<metric>`` for those of `query_metrics`, ``median_rank``, ``chance_recall@k``, and
        ``unanswerable``, how many queries have no positive; with ``confidence`` their intervals. Then the bootstrap
        replicates by metric, empty without ``confidence``. Of queries of which none has a positive, only the count.
    """
    metrics: Metrics = {f"retrieval/{name}_unanswerable": float(ranks.num_unanswerable)}
    if not len(ranks):
        return metrics, {}
    values = query_metrics(ranks, ks)
    for k in ks:
        chance = chance_hit_rate(ranks.num_positives, ranks.gallery_size, k)
        metrics[f"retrieval/{name}_chance_recall@{k}"] = float(chance.mean())
    metrics |= {f"retrieval/{name}_{key}": float(value.mean()) for key, value in values.items()}
    metrics[f"retrieval/{name}_median_rank"] = median_rank(ranks)
    if not confidence:
        return metrics, {}
    groups = groups[ranks.queries]
    means = bootstrap_means(torch.stack(list(values.values()), dim=1), groups)
    replicates = dict(zip(values, means.unbind(1)))
    replicates["median_rank"] = bootstrap_medians(best_rank(ranks), groups)
    num_groups = len(groups.unique())
    for key, value in replicates.items():
        metrics[f"retrieval/{name}_{key}_ci95"] = ci95(value, num_groups=num_groups)
    return metrics, replicates


def judge_both_ways(
    i2t: Ranks,
    t2i: Ranks,
    image_groups: Tensor,
    text_groups: Tensor,
    *,
    ks: Sequence[int],
    confidence: bool = True,
) -> Metrics:
    """The metrics of both directions, and the mean of their recalls.

    Args:
        i2t: ranks of the images as queries.
        t2i: ranks of the texts as queries.
        image_groups: (n,) integer.
        text_groups: (m,) integer.
        ks: cut-offs of recall.
        confidence: also give 95 % intervals.

    Returns:
        Those of `judge_way` for ``i2t`` and ``t2i``, and ``retrieval/mean_recall@k``.
    """
    metrics, images = judge_way(i2t, image_groups, name="i2t", ks=ks, confidence=confidence)
    other, texts = judge_way(t2i, text_groups, name="t2i", ks=ks, confidence=confidence)
    metrics |= other
    if not (len(i2t) and len(t2i)):
        return metrics
    num_groups = len(image_groups[i2t.queries].unique())
    for k in ks:
        name = f"recall@{k}"
        both = [float(metrics[f"retrieval/{way}_{name}"]) for way in ("i2t", "t2i")]
        metrics[f"retrieval/mean_{name}"] = sum(both) / 2
        if confidence:
            metrics[f"retrieval/mean_{name}_ci95"] = ci95(_mean(images, texts, name), num_groups=num_groups)
    return metrics


def _mean(images: Mapping[str, Tensor], texts: Mapping[str, Tensor], name: str) -> Tensor:
    # The answerable queries of both directions hold the same groups, so that their n-th resamples drew the same ones.
    return (images[name] + texts[name]) / 2
