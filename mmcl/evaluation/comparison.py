"""`compare_models`: two models on the same items, metric by metric, with intervals and corrected p-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ConfigError, DataError
from mmcl.evaluation.evaluator import Metrics
from mmcl.evaluation.metrics.classification import top_k_hits
from mmcl.evaluation.paired import PairedDifference, holm, paired_differences
from mmcl.evaluation.retrieval.evaluator import QueryValues, rank_galleries, values_of_queries
from mmcl.evaluation.retrieval.galleries import embed_galleries
from mmcl.evaluation.zero_shot.evaluator import ZeroShotEvaluator
from mmcl.logs import get_logger

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset
    from mmcl.embedder import Embedder
    from mmcl.evaluation.zero_shot.evaluator import ZeroShotPrediction

log = get_logger(__name__)

TASKS = ("retrieval", "zeroshot")


@dataclass(frozen=True)
class ComparedMetric:
    """One metric of two models.

    Attributes:
        name: such as ``i2t_recall@1``.
        a, b: the means of A and of B.
        paired: their difference.
        p_adjusted: its p-value, corrected for all metrics that were compared with it.
    """

    name: str
    a: float
    b: float
    paired: PairedDifference
    p_adjusted: float


@dataclass(frozen=True)
class Comparison:
    """Two models on one data set.

    Attributes:
        metrics: what was compared, in order.
        num_images: images that both could read.
        num_left_out: images that one of them could read and the other not.
    """

    metrics: list[ComparedMetric]
    num_images: int
    num_left_out: int

    def to_metrics(self) -> Metrics:
        """``compare/<metric>_a``, ``_b``, ``_difference``, ``_difference_ci95``, ``_p`` and ``_p_adjusted``; counts."""
        found: Metrics = {}
        for one in self.metrics:
            name = f"compare/{one.name}"
            found |= {f"{name}_a": one.a, f"{name}_b": one.b, f"{name}_difference": one.paired.difference}
            found |= {f"{name}_difference_ci95": one.paired.ci95, f"{name}_p": one.paired.p_value}
            found[f"{name}_p_adjusted"] = one.p_adjusted
        found["compare/num_images"] = float(self.num_images)
        found["compare/num_left_out"] = float(self.num_left_out)
        return found


def compare_models(
    a: Embedder,
    b: Embedder,
    dataset: ImageTextDataset,
    *,
    tasks: Sequence[str] = ("retrieval",),
    metrics: Sequence[str] | None = None,
    ks: Sequence[int] = (1, 5, 10),
    batch_size: int = 64,
) -> Comparison:
    """Compare two models, item by item, on the images that both can read.

    Args:
        a, b: embedders of images and texts; of any dimensions.
        dataset: what to compare on.
        tasks: of ``retrieval`` and ``zeroshot`` (which needs the column ``label``).
        metrics: names such as ``i2t_recall@1`` and ``zeroshot_top1``; None: recall at ``ks``, mrr, ndcg@10 and map both
            ways, and zero-shot top-1 and top-5. Name those that you mean to judge by: the more, the larger the
            corrected p-values.
        ks: cut-offs of recall.
        batch_size: items a forward pass.

    Raises:
        ConfigError: an unknown task or metric, or an embedder lacks images or texts.
        DataError: no image is readable by both.
        ShapeError: an embedding is not finite.
    """
    unknown = [task for task in tasks if task not in TASKS]
    if unknown or not tasks:
        raise ConfigError(f"tasks to compare are {', '.join(TASKS)}; got {', '.join(tasks) or 'none'}")
    pairs: list[tuple[QueryValues, QueryValues]] = []
    num_images, num_left_out = 0, 0
    if "retrieval" in tasks:
        pairs, num_images, num_left_out = _retrieval_pairs(a, b, dataset, ks=ks, batch_size=batch_size)
    if "zeroshot" in tasks:
        pair, images, left_out = _zero_shot_pair(ZeroShotEvaluator(dataset, batch_size=batch_size), a, b)
        pairs, num_images, num_left_out = [*pairs, pair], max(num_images, images), max(num_left_out, left_out)
    if num_left_out:
        log.warning("%s: %d images that only one of the two models can read are left out", dataset.name, num_left_out)
    chosen = _names(pairs, ks) if metrics is None else list(dict.fromkeys(metrics))
    return Comparison(_compare(pairs, chosen), num_images, num_left_out)


def _compare(pairs: Sequence[tuple[QueryValues, QueryValues]], names: Sequence[str]) -> list[ComparedMetric]:
    known = [f"{left.name}_{name}" for left, _ in pairs for name in left.values]
    strangers = [name for name in names if name not in known]
    if strangers:
        raise ConfigError(f"there is no metric {strangers[0]!r} to compare; there are {', '.join(known)}")
    found: dict[str, tuple[float, float, PairedDifference]] = {}
    for left, right in pairs:
        mine = [name for name in left.values if f"{left.name}_{name}" in names]
        if not mine:
            continue
        a, b = (torch.stack([side.values[name] for name in mine], dim=1) for side in (left, right))
        for column, paired in enumerate(paired_differences(a, b, left.groups)):
            means = float(a[:, column].mean()), float(b[:, column].mean())
            found[f"{left.name}_{mine[column]}"] = (*means, paired)
    adjusted = holm([found[name][2].p_value for name in names])
    return [ComparedMetric(name, *found[name], p) for name, p in zip(names, adjusted)]


def _names(pairs: Sequence[tuple[QueryValues, QueryValues]], ks: Sequence[int]) -> list[str]:
    """What is compared where nobody chose: metrics that say little the others do not are left out."""
    shown = {*(f"recall@{k}" for k in ks), "mrr", "ndcg@10", "map", "top1", "top5"}
    return [f"{left.name}_{name}" for left, _ in pairs for name in left.values if name in shown]


def _retrieval_pairs(
    a: Embedder, b: Embedder, dataset: ImageTextDataset, *, ks: Sequence[int], batch_size: int
) -> tuple[list[tuple[QueryValues, QueryValues]], int, int]:
    """Both directions of both models, over the same galleries; how many images these hold and how many they lack."""
    galleries = [embed_galleries(model, dataset, batch_size=batch_size) for model in (a, b)]
    common, left_out = _common(galleries[0].rows, galleries[1].rows, dataset.name)
    values = []
    for gallery in galleries:
        if len(common) < len(gallery.rows):
            gallery = gallery.select(np.flatnonzero(np.isin(gallery.rows, common)), dataset)
        values.append(values_of_queries(rank_galleries(gallery, ks), ks))
    return list(zip(*values)), len(common), left_out


def _zero_shot_pair(
    evaluator: ZeroShotEvaluator, a: Embedder, b: Embedder
) -> tuple[tuple[QueryValues, QueryValues], int, int]:
    """Hits of both models on the same images; how many these are and how many were left out."""
    predictions = [evaluator.predict(model) for model in (a, b)]
    rows = [prediction.rows.numpy() for prediction in predictions]
    common, left_out = _common(*rows, evaluator.dataset.name)
    kept = [torch.from_numpy(np.isin(one, common)) for one in rows]
    left, right = (_hits(*one) for one in zip(predictions, kept))
    return (left, right), len(common), left_out


def _hits(prediction: ZeroShotPrediction, kept: Tensor) -> QueryValues:
    scores, labels = prediction.scores[kept], prediction.labels[kept]
    values = {"top1": top_k_hits(scores, labels, 1).double()}
    if scores.shape[1] > 5:
        values["top5"] = top_k_hits(scores, labels, 5).double()
    return QueryValues("zeroshot", values, prediction.groups[kept])


def _common(a: np.ndarray, b: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    common = np.intersect1d(a, b)
    if not len(common):
        raise DataError(f"{name}: no image can be read by both models ({len(a)} by the one, {len(b)} by the other)")
    return common, len(a) + len(b) - 2 * len(common)
