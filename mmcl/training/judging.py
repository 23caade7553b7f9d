"""When a model is judged during training, which was the best so far, and whether there is still a gain."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmcl.config import EvaluateSection
from mmcl.errors import ConfigError, ShapeError, TrainingError
from mmcl.models.averaging import AveragedWeights
from mmcl.training.gather import broadcast_object, rank
from mmcl.training.progress import Progress
from mmcl.training.protocols import Hooks


class Judging:
    """Judges the weights that would be shipped: their average where there is one.

    Args:
        section: the recipe's ``evaluate``.
        hooks: ``judge`` and ``save_model``.
        model: what is trained.
        average: of its weights, or None.
        folder: where the best model goes.
        total_steps: of the run; the last one is always judged.
        batches_per_epoch: to turn epochs into steps.
    """

    def __init__(
        self,
        section: EvaluateSection,
        hooks: Hooks,
        model: nn.Module,
        average: AveragedWeights | None,
        *,
        folder: Path,
        total_steps: int,
        batches_per_epoch: int,
    ) -> None:
        self._folder = folder
        self._section, self._hooks, self._model, self._average = section, hooks, model, average
        self._total_steps = total_steps
        self._every = section.every_steps or max(1, round((section.every_epochs or 1.0) * batches_per_epoch))

    @property
    def is_on(self) -> bool:
        """Whether there is anything to judge by."""
        return self._hooks.judge is not None

    def is_due(self, progress: Progress) -> bool:
        """Whether the present step is to be judged and has not been."""
        if not self.is_on or progress.step == progress.evaluated_step:
            return False
        return progress.step == self._total_steps or progress.step % self._every == 0

    def judge(self, progress: Progress) -> dict[str, Any]:
        """Metrics from the main process, on every process; the best model is saved, the random state left as it was.

        Raises:
            ConfigError: ``evaluate.metric`` was not measured.
            TrainingError: the embeddings are not finite.
        """
        metrics: dict[str, Any] = {}
        if rank() == 0:
            with torch.random.fork_rng(), self._final_weights():
                was_training = self._model.training
                self._model.eval()
                metrics = self._measure(progress.step)
                self._model.train(was_training)
        metrics = broadcast_object(metrics)
        value = metrics.get(self._section.metric)
        if not isinstance(value, (int, float)):
            numbers = ", ".join(sorted(k for k, v in metrics.items() if isinstance(v, (int, float))))
            raise ConfigError(f"evaluate.metric is {self._section.metric!r}; this evaluation measures {numbers}")
        progress.evaluated_step = progress.step
        if self._is_better(value, progress.best):
            progress.best, progress.best_step, progress.stale_evaluations = value, progress.step, 0
            self.save_model()
        else:
            progress.stale_evaluations += 1
        return metrics

    def has_stalled(self, progress: Progress) -> bool:
        """Whether early stopping ends the run."""
        patience = self._section.early_stopping
        return patience is not None and progress.stale_evaluations >= patience

    def save_model(self) -> None:
        """Write the model as it would be shipped now."""
        if rank() == 0:
            with self._final_weights():
                self._hooks.save_model(self._folder)

    def _is_better(self, value: float, best: float | None) -> bool:
        if best is None:
            return not math.isnan(value)
        return value > best if self._section.mode == "max" else value < best

    def _measure(self, step: int) -> dict[str, Any]:
        try:
            return self._hooks.judge()
        except ShapeError as error:
            raise TrainingError(
                f"the evaluation at step {step} failed: {error}; if the embeddings are not finite, lower "
                f"optimizer.learning_rate"
            ) from error

    def _final_weights(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._average is None else self._average.swapped_in(self._model)
