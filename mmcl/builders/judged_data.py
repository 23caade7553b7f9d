"""The data that a run's start and end are judged on: which tasks, by what, and which metric counts (`JudgedData`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmcl import data as data_sources
from mmcl.builders.evaluation import allows, build_evaluator, build_evaluators, find_task, run_evaluators
from mmcl.config import EvaluateSection
from mmcl.config.forgetting_sections import BeforeSection
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.names import canonical_split
from mmcl.data.splits.training_splits import Splits
from mmcl.embedder import Embedder
from mmcl.errors import ConfigError
from mmcl.evaluation.blind import BlindEmbedder
from mmcl.evaluation.forgetting import allowed_tasks, short_names
from mmcl.hub.merging.judging import Judge, metric_value

_SHOWN = ("retrieval/i2t_recall@1", "retrieval/t2i_recall@1", "zeroshot/top1")


@dataclass(frozen=True)
class JudgedData:
    """One data set of a comparison of before and after.

    Attributes:
        dataset: the rows that are judged.
        tasks: of ``retrieval`` and ``zeroshot``.
        metric: what WiSE-FT counts.
        judge: an embedder to metrics, that one among them.
        batch_size: items a forward pass.
    """

    dataset: ImageTextDataset
    tasks: list[str]
    metric: str
    judge: Judge
    batch_size: int

    def measure(self, embedder: Embedder) -> dict[str, Any]:
        """Retrieval R@1 both ways, zero-shot top-1, and the metric that counts; all metrics where that is not there.

        Args:
            embedder: of images and texts.
        """
        metrics: Mapping[str, Any] = dict(self.judge(embedder))
        for task in self.tasks:
            if not any(key.startswith(f"{task}/") for key in metrics):
                metrics = {**metrics, **_plain_evaluator(task, self.dataset, self.batch_size)(embedder)}
        wanted = {*_SHOWN, self.metric}
        return {key: value for key, value in metrics.items() if key in wanted or self.metric not in metrics}


def judged_data(section: EvaluateSection, splits: Splits) -> dict[str, JudgedData]:
    """The run's validation split first, where there is one, then the data of ``evaluate.before``; by short names.

    Args:
        section: the recipe's ``evaluate``.
        splits: the run's.

    Raises:
        ConfigError: a metric of a task that does not judge the data.
        DataError: data cannot be read, or have not what a task needs.
    """
    own = [] if splits.validation is None else [splits.validation]
    others = [_drawn(data_sources.load(one.data), section.max_rows) for one in section.before]
    found = [_own(split, section, splits) for split in own]
    found += [_other(one, dataset, section.batch_size) for one, dataset in zip(section.before, others)]
    return dict(zip(short_names([dataset.name for dataset in (*own, *others)]), found))


def is_test(reference: str) -> bool:
    """Whether DATA names a test split."""
    split = data_sources.parse_reference(reference).split
    return split is not None and canonical_split(split) == "test"


def in_words(metrics: Mapping[str, Any]) -> str:
    """Retrieval R@1 and zero-shot top-1 for a line of the log."""
    return ", ".join(f"{key} {100 * value:.1f} %" for key, value in metrics.items() if key in _SHOWN)


def _own(validation: ImageTextDataset, section: EvaluateSection, splits: Splits) -> JudgedData:
    tasks = [task for task in ("retrieval", "zeroshot") if task in section.tasks and allows(task, validation)]
    tasks = tasks or allowed_tasks(validation)
    if not section.wise_ft.enabled:  # nothing is chosen by it, and what is shown is enough
        return _other(BeforeSection(data=validation.name, tasks=tuple(tasks)), validation, section.batch_size)
    counted = [section.metric.partition("/")[0]]
    # As during training: with the recipe's own classes and templates.
    evaluators = build_evaluators(validation, section, tasks=counted, confidence=False, train=splits.train)

    def judge(embedder: Embedder) -> dict[str, Any]:
        return run_evaluators(evaluators, embedder)

    return JudgedData(validation, tasks, section.metric, judge, section.batch_size)


def _other(one: BeforeSection, dataset: ImageTextDataset, batch_size: int) -> JudgedData:
    tasks = allowed_tasks(dataset, one.tasks)
    metric = one.metric or ("retrieval/mean_recall@1" if "retrieval" in tasks else "zeroshot/top1")
    task = metric.partition("/")[0]
    if task not in tasks:
        raise ConfigError(
            f"evaluate.before {one.data}: metric is {metric!r}, and its tasks are {', '.join(tasks)}; name a metric of "
            f"one of these"
        )
    if one.metric is not None:
        _check_metric(one, dataset)
    return JudgedData(dataset, tasks, metric, _plain_evaluator(task, dataset, batch_size), batch_size)


def _check_metric(one: BeforeSection, dataset: ImageTextDataset) -> None:
    """A misspelt metric is told before the run folder is written to, by a model that sees nothing."""
    evaluator = _plain_evaluator(one.metric.partition("/")[0], dataset, 64)
    metric_value(evaluator(BlindEmbedder()), one.metric, f"evaluate.before {one.data}")


def _plain_evaluator(task: str, dataset: ImageTextDataset, batch_size: int) -> Judge:
    """A task's evaluator without what takes long, and without what the recipe says of its own data."""
    options = {key: False for key in ("confidence", "same_modality") if key in find_task(task).keywords()}
    return build_evaluator(task, dataset, batch_size=batch_size, options=options)


def _drawn(dataset: ImageTextDataset, most: int | None) -> ImageTextDataset:
    """At most so many rows, drawn: the first of a data set may be of few classes."""
    if most is None or len(dataset) <= most:
        return dataset
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset))[:most])
    return dataset.select(rows, name=f"{dataset.name} ({most} of {len(dataset)} rows)")
