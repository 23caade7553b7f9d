"""Which metrics of retrieval the terminal's table shows, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from mmcl.evaluation.report.embedding_rows import MetricRow
from mmcl.evaluation.retrieval.corrected import NOTES

WAYS = {"i2t": "image → text", "t2i": "text → image"}
WITHIN = {"i2i": "image → image", "t2t": "text → text"}
CORRECTED = {"csls": "CSLS", "querybank": "querybank"}

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
    yield from _corrected(ks)
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


def correction_notes(metrics: Mapping[str, float | list[float]]) -> list[str]:
    """What must be said of corrected figures, one sentence for each kind that is there."""
    return [note for name, note in NOTES.items() if any(key.startswith(f"retrieval/{name}_") for key in metrics)]


def _corrected(ks: list[int]) -> Iterator[MetricRow]:
    """Hubness corrected, apart: what is found, what that gains, and how uneven it was."""
    for name, title in CORRECTED.items():
        for way, words in WAYS.items():
            for k in ks:
                yield MetricRow(f"retrieval/{name}_{way}_recall@{k}", f"{words} R@{k}, {title}")
                yield MetricRow(f"retrieval/{name}_{way}_recall@{k}_gain", f"{words} R@{k}, gained by {title}")
    for way, item in (("i2t", "captions"), ("t2i", "images")):
        for name, title in {"": "", **{f"{name}_": f", {title}" for name, title in CORRECTED.items()}}.items():
            yield MetricRow(f"retrieval/{name}hubness_{way}", f"hubness of {item}{title}", plain=True)
            yield MetricRow(f"retrieval/{name}never_found_{way}", f"{item} never found{title}")


def _recalls(way: str, words: str, ks: list[int]) -> Iterator[MetricRow]:
    for k in ks:
        yield MetricRow(f"retrieval/{way}_recall@{k}", f"{words} R@{k}", f"retrieval/{way}_chance_recall@{k}")
