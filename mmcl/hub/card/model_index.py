"""Every metric of an evaluation in a card's ``model-index``, as the Hub reads it, with its 95 % interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

CI95 = "ci95"  # key of a metric's ``args`` that holds [low, high]

# The first pattern that a metric's name begins with -> the Hub's task, and what people call it.
TASKS: dict[str, tuple[str, str]] = {
    r"zeroshot/": ("zero-shot-image-classification", "Zero-shot image classification"),
    r"retrieval/.*i2t_": ("image-to-text", "Image-to-text retrieval"),
    r"retrieval/.*t2i_": ("text-to-image", "Text-to-image retrieval"),
    r"retrieval/.*i2i_": ("image-to-image", "Image-to-image retrieval"),
    r"retrieval/.*t2t_": ("sentence-similarity", "Text-to-text retrieval"),
    r"retrieval/": ("image-feature-extraction", "Retrieval, both ways"),
    r"foils/": ("image-text-to-text", "Telling the caption from wrong ones"),
    r"(probe|knn|multilabel)/": ("image-classification", "Image classification"),
    r"": ("feature-extraction", "Embeddings"),
}

# mmcl's metric, without its task -> the Hub's identifier of the same; others go by their own names.
_HUB_METRICS = {
    "top1": "accuracy",
    "f1_macro": "f1",
    "precision_macro": "precision",
    "recall_macro": "recall",
    "roc_auc_macro": "roc_auc",
}


def hub_metric(name: str) -> str:
    """The Hub's identifier of a metric, or mmcl's own name without its task.

    Example:
        >>> hub_metric("zeroshot/top1"), hub_metric("retrieval/i2t_recall@5")
        ('accuracy', 'i2t_recall@5')
    """
    own = name.partition("/")[2] or name
    return _HUB_METRICS.get(own, own)


def eval_results(
    evaluation: Mapping[str, Mapping[str, Any]], *, dataset_type: str, dataset_name: str
) -> list[EvalResult]:
    """One result for each metric of each split; a metric that is not finite has none.

    A metric's own name stands in ``metric_name``, its interval in ``metric_args``: both survive being parsed by
    huggingface_hub.

    Args:
        evaluation: split -> metrics, ``*_ci95`` to [low, high].
        dataset_type: Hub id of the data, or their name.
        dataset_name: what people call them.
    """
    from huggingface_hub import EvalResult

    results = []
    for split, metrics in evaluation.items():
        for name, value in metrics.items():
            if not _is_finite(value):
                continue
            task, task_name = next(found for pattern, found in TASKS.items() if re.match(pattern, name))
            interval = metrics.get(f"{name}_ci95")
            bounded = isinstance(interval, (list, tuple)) and len(interval) == 2 and all(map(_is_finite, interval))
            results.append(
                EvalResult(
                    task_type=task,
                    task_name=task_name,
                    dataset_type=dataset_type,
                    dataset_name=dataset_name,
                    dataset_split=split,
                    metric_type=hub_metric(name),
                    metric_name=name,
                    metric_value=value,
                    metric_args={CI95: [float(end) for end in interval]} if bounded else None,
                )
            )
    return results


def evaluation_from_results(results: list[EvalResult]) -> dict[str, dict[str, Any]]:
    """The evaluation that `eval_results` was made of: split -> metrics, ``*_ci95`` to [low, high]."""
    evaluation: dict[str, dict[str, Any]] = {}
    for result in results:
        metrics = evaluation.setdefault(result.dataset_split or "", {})
        metrics[result.metric_name or result.metric_type] = result.metric_value
        if CI95 in (result.metric_args or {}):
            metrics[f"{result.metric_name or result.metric_type}_ci95"] = list(result.metric_args[CI95])
    return evaluation


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
