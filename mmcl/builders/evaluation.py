"""Task names to evaluators, and `evaluate`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl import data as data_sources
from mmcl.config import EvaluateSection
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import CachedEmbedder, Embedder, load
from mmcl.errors import ConfigError
from mmcl.evaluation import (
    ClusterEvaluator,
    DomainShiftEvaluator,
    Evaluator,
    FoilEvaluator,
    GeometryEvaluator,
    KNNEvaluator,
    LanguagesEvaluator,
    LinearProbeEvaluator,
    MultiLabelEvaluator,
    RetrievalEvaluator,
    RobustnessEvaluator,
    ZeroShotEvaluator,
    load_classes,
    load_prompts,
    load_templates,
)
from mmcl.evaluation.retrieval.hubness import CSLS_K


@dataclass(frozen=True)
class Task:
    """How a task's evaluator is made.

    Attributes:
        evaluator: called with a data set, ``batch_size`` and the options of the task, which are its other keywords. A
            keyword ``train`` is a data set to fit on.
        column: what the data must hold, or any one of several; None: nothing.
    """

    evaluator: Callable[..., Evaluator]
    column: str | tuple[str, ...] | None

    def columns(self) -> tuple[str, ...]:
        """The columns of which the data must hold one; none: they need not."""
        return (self.column,) if isinstance(self.column, str) else self.column or ()

    def keywords(self) -> dict[str, inspect.Parameter]:
        """The keywords of the evaluator, ``batch_size`` left out."""
        found = inspect.signature(self.evaluator).parameters.values()
        return {one.name: one for one in found if one.kind is one.KEYWORD_ONLY and one.name != "batch_size"}


EVALUATORS: dict[str, Task] = {
    "retrieval": Task(RetrievalEvaluator, "texts"),
    "zeroshot": Task(ZeroShotEvaluator, "label"),
    "multilabel": Task(MultiLabelEvaluator, "tags"),
    "foils": Task(FoilEvaluator, ("foils", "negatives")),
    "probe": Task(LinearProbeEvaluator, "label"),
    "knn": Task(KNNEvaluator, "label"),
    "clusters": Task(ClusterEvaluator, "label"),
    "geometry": Task(GeometryEvaluator, None),
    "robustness": Task(RobustnessEvaluator, "texts"),
    "domains": Task(DomainShiftEvaluator, "domain"),
    "languages": Task(LanguagesEvaluator, None),
}

# Options that may be given as a file or a data set's name, and what reads them.
_READERS: dict[str, Callable[[str], Any]] = {
    "classes": load_classes,
    "templates": load_templates,
    "prompts": load_prompts,
    "train": data_sources.load,
    "validation": data_sources.load,
    "querybank": data_sources.load,
}


def find_task(name: str) -> Task:
    """The task of a name.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in EVALUATORS:
        near = difflib.get_close_matches(name, EVALUATORS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(EVALUATORS)}"
        raise ConfigError(f"unknown task {name!r}; {hint}")
    return EVALUATORS[name]


def build_evaluator(
    name: str, dataset: ImageTextDataset, *, batch_size: int = 64, options: Mapping[str, Any] | None = None
) -> Evaluator:
    """One task's evaluator.

    Args:
        name: of ``EVALUATORS``.
        dataset: the split to judge on.
        batch_size: items a forward pass.
        options: keywords of the evaluator; files and data sets by name are read.

    Raises:
        ConfigError: an unknown task or option, or one that is missing.
        DataError: a file or the data do not fit the task.
    """
    check_options(name, options or {})
    return find_task(name).evaluator(dataset, batch_size=batch_size, **read_options(name, options or {}))


def check_options(name: str, options: Collection[str]) -> None:
    """Refuse options that a task does not take, and the lack of those that it needs; looks at names alone.

    Args:
        name: of ``EVALUATORS``.
        options: names of options.

    Raises:
        ConfigError: an unknown task or option (the nearest is named), or one that is missing.
    """
    keywords = find_task(name).keywords()
    for key in options:
        if key not in keywords:
            near = difflib.get_close_matches(key, keywords, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(keywords) or 'none'}"
            raise ConfigError(f"task {name!r} has no option {key!r}; {hint}")
    missing = [key for key, one in keywords.items() if one.default is one.empty and key not in options]
    if missing:
        raise ConfigError(f"task {name!r} needs the option {missing[0]!r}, such as {missing[0]}=path/to/data:train")


def read_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task, with what files and data sets by name hold.

    Raises:
        DataError: a file or data set cannot be read.
    """
    keywords, read = find_task(name).keywords(), dict(options)
    for key, value in options.items():
        if key in _READERS and key in keywords and isinstance(value, (str, Path)):
            read[key] = _READERS[key](str(value))
    return read


def allows(name: str, dataset: ImageTextDataset) -> bool:
    """Whether the data hold what a task needs."""
    columns = find_task(name).columns()
    return not columns or any(dataset.has(column) for column in columns)


def build_evaluators(
    dataset: ImageTextDataset,
    section: EvaluateSection,
    *,
    tasks: Sequence[str],
    confidence: bool = True,
    train: ImageTextDataset | None = None,
) -> list[Evaluator]:
    """The evaluators of a recipe's tasks that the data allow; a task whose column is missing is left out.

    Args:
        dataset: the split to judge on.
        section: batch size, classes and templates.
        tasks: names of ``EVALUATORS``.
        confidence: whether bootstrap intervals are computed, and images ranked among images, where that can be chosen
            (they take longer).
        train: what tasks that fit something are fitted on.

    Raises:
        ConfigError: an unknown task.
    """
    own = {"classes": section.classes, "templates": section.templates, "confidence": confidence, "train": train}
    # A corrected figure is none of the model alone: only who names it as the metric has it computed.
    own["csls"] = CSLS_K if section.metric.startswith("retrieval/csls_") else None
    own["same_modality"] = confidence  # ranks every image against every image: for the last figures alone
    evaluators = []
    for name in tasks:
        keywords = find_task(name).keywords()
        options = {key: value for key, value in own.items() if key in keywords and value is not None}
        if allows(name, dataset):
            evaluators.append(build_evaluator(name, dataset, batch_size=section.batch_size, options=options))
    return evaluators


def run_evaluators(evaluators: Sequence[Evaluator], embedder: Embedder) -> dict[str, Any]:
    """All metrics of some evaluators in one dictionary."""
    metrics: dict[str, Any] = {}
    for evaluator in evaluators:
        metrics |= evaluator(embedder)
    return metrics


def evaluate(
    model: Embedder | str | Path,
    data: ImageTextDataset | str | Path,
    *,
    tasks: Sequence[str] = ("retrieval", "zeroshot", "foils"),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_size: int = 64,
) -> dict[str, Any]:
    """Judge any model on any data.

    Args:
        model: an ``Embedder``, or a MODEL reference.
        data: a data set, or a DATA reference such as ``"path/to/data:test"``.
        tasks: what to measure; a task whose column (``label``, ``foils``) the data lack is left out.
        options: the keywords of a task's evaluator, by task, such as ``{"probe": {"train": "path/to/data:train"}}``.
            A task that fits on ``train`` takes the splits ``train`` and ``validation`` of ``data`` where none is given.
        batch_size: items a forward pass.

    Returns:
        Metric names to values, ``*_ci95`` to ``[low, high]``.

    Raises:
        ConfigError, DataError: no such model, task, option or data.
    """
    strangers = [name for name in options or {} if name not in tasks]
    if strangers:
        raise ConfigError(f"options are given for {strangers[0]!r}, which is none of the tasks {', '.join(tasks)}")
    reference = None if isinstance(data, ImageTextDataset) else str(data)
    dataset = data_sources.load(reference) if reference is not None else data
    evaluators = []
    for name in tasks:
        if allows(name, dataset):
            given = with_train_split(name, (options or {}).get(name, {}), reference)
            given = with_validation_split(name, given, reference)
            evaluators.append(build_evaluator(name, dataset, batch_size=batch_size, options=given))
    embedder = load(model) if isinstance(model, (str, Path)) else model
    # In memory: tasks on the same data share what is embedded.
    return run_evaluators(evaluators, embedder if isinstance(embedder, CachedEmbedder) else CachedEmbedder(embedder))


def with_train_split(name: str, options: Mapping[str, Any], reference: str | None) -> dict[str, Any]:
    """The options, with the split ``train`` of the data where the task fits on one and none is given.

    Args:
        name: of ``EVALUATORS``.
        options: as they were given.
        reference: DATA that is judged on, or None where it has no name.
    """
    wanted = find_task(name).keywords().get("train")
    if wanted is None or wanted.default is not wanted.empty or "train" in options or reference is None:
        return dict(options)
    return {**options, "train": f"{data_sources.parse_reference(reference).base}:train"}


def with_validation_split(name: str, options: Mapping[str, Any], reference: str | None) -> dict[str, Any]:
    """The options, with the split ``validation`` of the training data where the task takes one and none is given.

    Left out where the data have none, or where it is what is judged on.

    Args:
        name: of ``EVALUATORS``.
        options: with ``train`` as it was given, or as `with_train_split` found it.
        reference: DATA that is judged on, or None where it has no name.
    """
    train = options.get("train")
    if "validation" not in find_task(name).keywords() or "validation" in options or not isinstance(train, (str, Path)):
        return dict(options)
    base = data_sources.parse_reference(train).base
    judged = None if reference is None else data_sources.parse_reference(reference)
    if judged == (base, "validation") or "validation" not in data_sources.available_splits(base):
        return dict(options)
    return {**options, "validation": f"{base}:validation"}
