"""How long evaluations take: whole where embeddings come from kept features, else on parts of the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmcl.builders.judging import build_judge
from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.training_splits import Splits
from mmcl.errors import ConfigError, DataError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.plan.stand_in_features import StandInFeatures
from mmcl.training.trainer import Trainer

FEW_ROWS, PART_ROWS = 64, 256  # of the parts; the difference is what rows cost
SHORT_SECONDS = 8.0  # an evaluation that takes less is made again, warmed up


@dataclass(frozen=True)
class _Line:
    """Seconds of two sizes, and those of a third on the line through them."""

    few: int
    few_seconds: float
    more: int
    more_seconds: float

    def at(self, rows: int) -> float:
        if self.more <= self.few:
            return self.more_seconds
        slope = max(0.0, (self.more_seconds - self.few_seconds) / (self.more - self.few))
        return self.more_seconds + slope * (rows - self.more)


class JudgingTime:
    """Times a recipe's evaluations.

    Args:
        recipe: of the measurement.
        splits: all rows.
        cache: features; None: towers run.
        device: where they run.
    """

    def __init__(self, recipe: Recipe, splits: Splits, cache: StandInFeatures | None, device: torch.device) -> None:
        self._recipe, self._splits, self.cache, self._device = recipe, splits, cache, device
        self._model: DualEncoder | None = None
        self._in_parts = False

    @contextmanager
    def shortened(self, model: DualEncoder) -> Iterator[Splits]:
        """The splits with as much of the validation split as is judged here."""
        self._model = model
        fixed = self.cache is not None and model.image.has_fixed_features and model.text.has_fixed_features
        self._in_parts = not fixed
        yield self._splits if fixed else self._part(FEW_ROWS)

    def during_training(self, trainer: Trainer) -> dict[str, float]:
        """Seconds of the first evaluation of a run, and of a later one; ``rows`` judged."""
        rows = len(self._splits.validation)
        model, was_training = trainer.objective.model, trainer.objective.model.training
        model.eval()
        try:
            if not self._in_parts:
                computing = self.cache.seconds
                first = _timed(trainer.hooks.judge) - (self.cache.seconds - computing)
                later = _timed(trainer.hooks.judge) if first < SHORT_SECONDS else first
                return {"first": first, "later": later, "rows": rows}
            self._ask_for(self._splits.validation)
            with self._parts():
                first = _timed(trainer.hooks.judge)
                line = self._line(trainer.hooks.judge, min(FEW_ROWS, rows), self._judge_of_part, rows, first)
            later = line.at(rows)
            return {"first": later + max(0.0, first - line.few_seconds), "later": later, "rows": rows}
        finally:
            model.train(was_training)

    def at_the_end(self, judge: Callable[[Splits], object], *, loading: float) -> dict[str, float]:
        """Seconds of the judgement on the test splits, with loading the best model; ``rows`` judged."""
        tests = self._splits.test
        rows = sum(map(len, tests.values()))
        if not self._in_parts:
            computing = self.cache.seconds
            seconds = _timed(lambda: judge(self._splits))
            return {"seconds": seconds - (self.cache.seconds - computing), "rows": rows}
        for dataset in tests.values():
            self._ask_for(dataset)
        with self._parts():
            few = self._part(FEW_ROWS)
            small = sum(map(len, few.test.values()))
            first = _timed(lambda: judge(few))
            line = self._line(lambda: judge(few), small, lambda: lambda: judge(self._part(PART_ROWS)), rows, first)
        return {"seconds": max(loading, line.at(rows)), "rows": rows}

    def _line(
        self,
        judge_few: Callable[[], object],
        few: int,
        judge_more: Callable[[], Callable[[], object]],
        rows: int,
        first: float,
    ) -> _Line:
        again = _timed(judge_few) if first < SHORT_SECONDS else first
        if rows <= few:
            return _Line(few, again, few, again)
        share = PART_ROWS / FEW_ROWS
        more = judge_more()
        return _Line(few, again, min(rows, int(few * share)), _timed(more))

    def _judge_of_part(self) -> Callable[[], object]:
        return build_judge(self._recipe, self._model, self._part(PART_ROWS), self.cache, self._device)

    def _ask_for(self, dataset: ImageTextDataset) -> None:
        """Count the features that the whole of these data need, where one side's are kept."""
        if self.cache is None:
            return
        if self._model.image.has_fixed_features:
            self.cache.images(self._model.image, dataset)
        if self._model.text.has_fixed_features:
            self.cache.texts(self._model.text, [text for texts in dataset.column("texts") for text in texts])

    def _parts(self) -> Any:
        return nullcontext() if self.cache is None else self.cache.parts()

    def _part(self, rows: int) -> Splits:
        """The same splits, each judged on its first rows; the validation split whole where a part measures nothing."""
        validation, tests = self._splits.validation, self._splits.test
        part = None if validation is None else validation.select(range(min(rows, len(validation))))
        short = replace(
            self._splits,
            validation=part,
            test={name: test.select(range(min(rows, len(test)))) for name, test in tests.items()},
        )
        if part is None:
            return short
        try:
            build_judge(self._recipe, self._model, short, self.cache, self._device)
        except (ConfigError, DataError):
            return replace(short, validation=validation)  # the whole says what is wrong, if anything is
        return short


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
