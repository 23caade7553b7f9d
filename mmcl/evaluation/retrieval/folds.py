"""Retrieval over folds: COCO's 1K figures are means over five folds of 1,000 of its 5,000 test images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from mmcl.errors import ConfigError
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics.retrieval import NDCG_DEPTH
from mmcl.evaluation.retrieval.both_ways import rank_both_ways
from mmcl.evaluation.retrieval.directions import judge_both_ways
from mmcl.evaluation.retrieval.galleries import Galleries

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset

_SHOWN = ("mrr", "ndcg@10", "map@10", "map", "r_precision", "median_rank", "mean_rank")


def judge_folds(galleries: Galleries, dataset: ImageTextDataset, *, folds: int, ks: Sequence[int]) -> Metrics:
    """Both directions within each of some folds, averaged over the folds.

    Of n rows, fold i holds rows ``i * (n // folds)`` to ``(i + 1) * (n // folds)``, in the data's order, and all of
    their captions; what is left over at the end is in no fold, and counted. Folds are made of rows, readable or not, so
    that every model is judged on the same ones. For five folds of the 5,000 images of COCO's test split of Karpathy
    this is the field's "COCO 1K".

    Args:
        galleries: of the whole data set.
        dataset: the data set.
        folds: how many, 2 to n.
        ks: cut-offs of recall.

    Returns:
        ``retrieval/<folds>fold_<metric>`` for ``i2t_*`` and ``t2i_*`` and ``mean_recall@k``, each the mean over folds,
        with ``_std``, the standard deviation over folds (with ``folds - 1`` below the line);
        ``retrieval/<folds>fold_images`` in each fold and ``retrieval/<folds>fold_left_over``.

    Raises:
        ConfigError: ``folds`` is below 2 or above the number of rows, or a fold has no readable image.

    Source:
        Karpathy & Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions", section 4.2 (1,000
        test images); Faghri et al. 2018, "VSE++", section 4.1 (the mean over five folds of 1,000).
    """
    size = check_folds(folds, len(dataset), dataset.name)
    each: list[Metrics] = []
    for fold in range(folds):
        kept = np.flatnonzero(galleries.rows // size == fold)
        if not len(kept):
            raise ConfigError(f"{dataset.name}: no image of fold {fold + 1} of {folds} could be read; take fewer folds")
        part = galleries.select(kept, dataset)
        ways = rank_both_ways(part.images, part.texts, part.image_groups, part.text_groups, depth=max(*ks, NDCG_DEPTH))
        each.append(judge_both_ways(*ways, part.image_groups, part.text_groups, ks=ks, confidence=False))
    names = [f"{way}_{name}" for way in ("i2t", "t2i") for name in (*(f"recall@{k}" for k in ks), *_SHOWN)]
    metrics: Metrics = {}
    for name in [*names, *(f"mean_recall@{k}" for k in ks)]:
        values = [float(one[f"retrieval/{name}"]) for one in each]
        metrics[f"retrieval/{folds}fold_{name}"] = fmean(values)
        metrics[f"retrieval/{folds}fold_{name}_std"] = stdev(values)
    metrics[f"retrieval/{folds}fold_images"] = float(size)
    metrics[f"retrieval/{folds}fold_left_over"] = float(len(dataset) - folds * size)
    return metrics


def check_folds(folds: int, num_rows: int, name: str) -> int:
    """Rows a fold.

    Raises:
        ConfigError: ``folds`` is below 2 or above the number of rows.
    """
    if not 2 <= folds <= num_rows:
        raise ConfigError(
            f"folds needs to be 2 to {num_rows}, the rows of {name}, got {folds}; COCO's 1K figures take 5"
        )
    return num_rows // folds
