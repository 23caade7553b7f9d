"""What judges a model in training, and the best one behind it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import torch

from mmcl.builders.evaluation import build_evaluators, run_evaluators
from mmcl.config import EvaluateSection, Recipe
from mmcl.data.splits.training_splits import Splits
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError
from mmcl.evaluation.blind import BlindEmbedder
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing
from mmcl.models.saving import from_pretrained
from mmcl.training.cached_features import FeatureCache
from mmcl.training.runs import RunFolder

METRIC_ROWS = 200  # rows that usually show what an evaluation measures


def build_judge(
    recipe: Recipe, model: DualEncoder, splits: Splits, cache: FeatureCache | None, device: Any
) -> Callable[[], dict[str, Any]] | None:
    """What judges the model during training; None where there is nothing to judge on.

    Raises:
        ConfigError: ``evaluate.metric`` is none that these data allow, or what needs evaluations has none.
    """
    section, validation = recipe.evaluate, splits.validation
    evaluators = []
    if validation is not None:
        evaluators = build_evaluators(validation, section, tasks=section.tasks, confidence=False, train=splits.train)
    if not evaluators:
        for key, wanted in (
            ("schedule.name=plateau", recipe.schedule.name == "plateau"),
            ("evaluate.early_stopping", section.early_stopping is not None),
        ):
            if wanted:
                raise ConfigError(f"{key} needs evaluations; give data.split.validation and evaluate.tasks")
        return None
    _check_metric(section, splits)
    embedder = DualEncoderEmbedder(model, device=device, features=cache)
    return lambda: run_evaluators(evaluators, embedder)


def _check_metric(section: EvaluateSection, splits: Splits) -> None:
    """A wrong ``evaluate.metric`` is told before training, not after its first hour."""
    validation, found = splits.validation, {}
    for rows in dict.fromkeys((min(len(validation), METRIC_ROWS), len(validation))):
        part = validation.select(range(rows))
        evaluators = build_evaluators(part, section, tasks=section.tasks, confidence=False, train=splits.train)
        found = run_evaluators(evaluators, BlindEmbedder())
        if isinstance(found.get(section.metric), (int, float)):
            return
    numbers = sorted(name for name, value in found.items() if isinstance(value, (int, float)))
    near = difflib.get_close_matches(section.metric, numbers, n=1)
    raise ConfigError(
        f"evaluate.metric is {section.metric!r}; evaluate.tasks measure {', '.join(numbers)} on {validation.name}"
        + (f"; did you mean {near[0]!r}?" if near else "")
    )


def judge_best(
    recipe: Recipe, run: RunFolder, splits: Splits, *, device: torch.device, cache: FeatureCache | None
) -> dict[str, dict[str, Any]]:
    """Load the best model back from the run folder and judge it on the test splits; written to ``evaluation.json``."""
    if not splits.test:
        return {}
    best = from_pretrained(run.model)
    apply_freezing(best, recipe.model)  # so that towers that never changed find their features in the cache
    embedder = DualEncoderEmbedder(best, device=device, features=cache)
    metrics = {
        name: run_evaluators(
            build_evaluators(split, recipe.evaluate, tasks=recipe.evaluate.tasks, train=splits.train), embedder
        )
        for name, split in splits.test.items()
    }
    run.write_json("evaluation.json", metrics)
    return metrics
