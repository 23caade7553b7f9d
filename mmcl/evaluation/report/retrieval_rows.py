"""Which metrics of retrieval the terminal's table shows, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mmcl.evaluation.report.embedding_rows import MetricRow

WAYS = {"i2t": "image → text", "t2i": "text → image"}
WITHIN = {"i2i": "image → image", "t2t": "text → text"}

_RECALL = re.compile(r"retrieval/i2t_recall@(\d+)")
_FOLDED = re.compile(r"retrieval/(\d+)fold_images")
_SUMMARIES = {
    "mrr": "MRR",
    "ndcg@10": "nDCG@10",
    "map@10": "mAP@10",
    "map": "mAP",
    "r_precision": "R-precision",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
}


def retrieval_rows(metrics: Mapping[str, float | list[float]]) -> Iterator[MetricRow]:
    """The rows of retrieval, in both directions, within each modality, over folds and over languages.

    Args:
        metrics: from any evaluators together; rows of metrics that are not there are given too.
    """
    ks = sorted(int(match[1]) for match in map(_RECALL.fullmatch, metrics) if match)
    for way, words in WAYS.items():
        yield from _recalls(way, words, ks)
        yield MetricRow(f"retrieval/appearance_reader_{way}_recall@1", f"{words} R@1, appearance only")
        for key, name in _SUMMARIES.items():
            yield MetricRow(f"retrieval/{way}_{key}", f"{words} {name}", plain=key.endswith("_rank"))
    for way, words in WITHIN.items():
        yield from _recalls(way, words, ks)
        for key in ("map", "r_precision"):
            yield MetricRow(f"retrieval/{way}_{key}", f"{words} {_SUMMARIES[key]}")
    for match in filter(None, map(_FOLDED.fullmatch, metrics)):
        for way, words in WAYS.items():
            for k in ks:
                yield MetricRow(f"retrieval/{match[1]}fold_{way}_recall@{k}", f"{words} R@{k}, {match[1]} folds")
    for summary in ("mean", "worst", "best"):
        for way, words in WAYS.items():
            yield MetricRow(f"languages/{summary}_{way}_recall@1", f"{words} R@1, {summary} of languages")


def _recalls(way: str, words: str, ks: list[int]) -> Iterator[MetricRow]:
    for k in ks:
        yield MetricRow(f"retrieval/{way}_recall@{k}", f"{words} R@{k}", f"retrieval/{way}_chance_recall@{k}")
