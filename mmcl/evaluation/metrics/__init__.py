"""Metrics: pure functions of arrays, each with its formula and source; no model, data set or file is known here."""

from mmcl.evaluation.metrics.classification import (
    confusion_matrix,
    expected_calibration_error,
    f1_macro,
    mean_per_class,
    predict,
    roc_auc_macro,
    top_k_hits,
)
from mmcl.evaluation.metrics.retrieval import (
    average_precision,
    chance_hit_rate,
    hit_rate,
    median_rank,
    ndcg,
    query_metrics,
    reciprocal_rank,
    true_recall,
)

__all__ = [
    "average_precision",
    "chance_hit_rate",
    "confusion_matrix",
    "expected_calibration_error",
    "f1_macro",
    "hit_rate",
    "mean_per_class",
    "median_rank",
    "ndcg",
    "predict",
    "query_metrics",
    "reciprocal_rank",
    "roc_auc_macro",
    "top_k_hits",
    "true_recall",
]
