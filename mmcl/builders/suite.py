"""A suite's names to objects: its models, data and evaluators, and the cells that they make."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

import mmcl
from mmcl import data as data_sources
from mmcl.builders.evaluation import (
    allows,
    build_evaluator,
    check_options,
    find_task,
    read_options,
    with_train_split,
    with_validation_split,
)
from mmcl.builders.suite_references import check_model, model_fingerprint
from mmcl.config.suite import Suite, SuiteData, SuiteTask, suite_from_tree, suite_to_tree
from mmcl.data.cache_folder import cache_folder
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.names import canonical_split
from mmcl.embedder import CachedEmbedder, Embedder, load
from mmcl.embedder.precision import check_precision, find_device
from mmcl.errors import ConfigError
from mmcl.evaluation import Evaluator
from mmcl.evaluation.report.suite_table import write_tables
from mmcl.evaluation.suite import Cell, CellResult, CellStore, Share, Watch, collect, run_cells

# Options that are data sets.
_DATA_OPTIONS = ("train", "validation")


class SuitePlan:
    """A suite whose names were looked up: everything cheap is checked and read, no model is loaded.

    Args:
        suite: what to judge.
        device: where models run; default the suite's own, or else the GPU where there is one.
        cache: whether embeddings are kept in mmcl's cache folder, and those kept before are used; else in memory.

    Attributes:
        cells: each model on each data set by each task, models outermost.
        folder: the suite's ``output``.
        store: where results are kept, ``cells/`` in the folder.

    Raises:
        ConfigError: no model or no data; an unknown task, option, model or column; the folder cannot be written.
        DataError: data, or a file that an option names, cannot be read.
    """

    def __init__(self, suite: Suite, *, device: str | None = None, cache: bool = True) -> None:
        _check(suite)
        device = device or suite.device
        check_precision(suite.precision, find_device(device))
        self.suite = suite
        self.folder = Path(suite.output).expanduser()
        self.store = CellStore(self.folder / "cells")
        self._opened: dict[str, ImageTextDataset] = {}
        self._fingerprints: dict[int, str] = {}
        self._models = _Models(suite, device=device, cache=cache)
        self._options: dict[tuple[str, str], Mapping[str, Any]] = {}
        left_out: dict[tuple[str, str], str] = {}
        for name, entry in suite.data.items():
            self._open(entry)
            for label, task in zip(suite.labels(), suite.tasks):
                reason = self._lack(entry, task)
                if reason is None:
                    self._options[name, label] = self._read(entry, task)
                else:
                    left_out[name, label] = reason
        self.cells = [
            Cell(
                model,
                data,
                label,
                self._key(model, data, label, task),
                left_out.get((data, label)) or _mismatch(suite.models[model], suite.data[data].path),
            )
            for model in suite.models
            for data in suite.data
            for label, task in zip(suite.labels(), suite.tasks)
        ]

    def run(self, *, share: Share | None = None, force: bool = False, watch: Watch | None = None) -> None:
        """Compute the cells of a share that are not there yet; see `run_cells`."""
        self._models.progress = None if watch is None else watch.embedding
        run_cells(
            self.cells,
            self.store,
            embedder=self._models,
            evaluator=self._evaluator,
            share=share,
            force=force,
            watch=watch,
        )

    def results(self, share: Share | None = None) -> list[CellResult]:
        """What is there of every cell of a share; default all."""
        return collect((share or Share()).of(self.cells), self.store)

    @property
    def kept_suite(self) -> Path:
        """Where ``keep_suite`` writes."""
        return self.folder / "results.yaml"

    def keep_suite(self) -> None:
        """Write the suite as it is run, with what the command line gave, beside its tables.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            text = yaml.safe_dump(suite_to_tree(self.suite), sort_keys=False, allow_unicode=True)
        except yaml.YAMLError as error:
            raise ConfigError(f"an option of a task is nothing that YAML can hold: {error}") from error
        beside = self.folder / f".results.yaml.{os.getpid()}.part"
        try:
            beside.write_text(text, encoding="utf-8")
            os.replace(beside, self.kept_suite)
        except OSError as error:
            raise ConfigError(f"{self.kept_suite} cannot be written: {error.strerror or error}") from error

    def _open(self, entry: SuiteData) -> ImageTextDataset:
        """The data of an entry, read once."""
        key = entry.model_dump_json()
        if key not in self._opened:
            self._opened[key] = data_sources.load(entry.path, columns=entry.renamed(), images=entry.images)
        return self._opened[key]

    def _lack(self, entry: SuiteData, task: SuiteTask) -> str | None:
        """What the data lack for the task; None where they lack nothing."""
        if not allows(task.name, self._open(entry)):
            return f"no {' or '.join(find_task(task.name).columns())} column"
        options = with_train_split(task.name, task.options, entry.path)
        if "train" in options and "train" not in task.options:
            splits = data_sources.available_splits(entry.path, columns=entry.renamed(), images=entry.images)
            if "train" not in map(canonical_split, splits):
                return "no split train to fit on, and no option train"
        return None

    def _read(self, entry: SuiteData, task: SuiteTask) -> dict[str, Any]:
        """The options of a task on some data, with what files and data sets by name hold."""
        options = with_train_split(task.name, task.options, entry.path)
        options = with_validation_split(task.name, options, entry.path)
        for key in _DATA_OPTIONS:
            if isinstance(options.get(key), (str, Mapping)):
                options[key] = self._open(_data_option(task.name, key, options[key], entry))
        return read_options(task.name, options)

    def _key(self, model: str, data: str, label: str, task: SuiteTask) -> dict[str, Any]:
        """All that the metrics of a cell depend on."""
        suite, entry = self.suite, self.suite.data[data]
        reference = suite.models[model]
        return {
            "mmcl": mmcl.__version__,
            "model": reference,
            "model_fingerprint": model_fingerprint(reference),
            "data": entry.model_dump(exclude_none=True),
            "data_fingerprint": self._fingerprint(self._open(entry)),
            "task": task.name,
            "options": self._described(self._options.get((data, label), {})),
            "batch_size": suite.batch_size,
            "precision": suite.precision,
        }

    def _described(self, value: Any) -> Any:
        """Options as JSON; a data set by its name and what is in it."""
        if isinstance(value, ImageTextDataset):
            return {"data": value.name, "fingerprint": self._fingerprint(value)}
        if isinstance(value, Mapping):
            return {str(key): self._described(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._described(inner) for inner in value]
        return value

    def _fingerprint(self, dataset: ImageTextDataset) -> str:
        if id(dataset) not in self._fingerprints:
            self._fingerprints[id(dataset)] = data_fingerprint(dataset)
        return self._fingerprints[id(dataset)]

    def _evaluator(self, cell: Cell) -> Evaluator:
        dataset = self._open(self.suite.data[cell.data])
        options = self._options[cell.data, cell.task]
        task = dict(zip(self.suite.labels(), self.suite.tasks))[cell.task]
        return build_evaluator(task.name, dataset, batch_size=self.suite.batch_size, options=options)


class _Models:
    """The model of a cell, one at a time; one that cannot be loaded is not tried again for its other cells."""

    def __init__(self, suite: Suite, *, device: str | None, cache: bool) -> None:
        self._suite, self._device = suite, device
        self._folder = cache_folder() / "embeddings" if cache else None
        self._name: str | None = None
        self._model: list[Embedder] = []
        self._error: Exception | None = None
        self.progress: Callable[[str, int, int], None] | None = None

    def __call__(self, cell: Cell) -> Embedder:
        if cell.model != self._name:
            self._name, self._error = cell.model, None
            self._model.clear()  # its memory is free before the next is loaded
            try:
                reference, precision = self._suite.models[cell.model], self._suite.precision
                self._model.append(load(reference, device=self._device, precision=precision))
            except Exception as error:  # kept, whatever it is: each of its cells says why it has no metrics
                self._error = error
        if self._error is not None:
            raise self._error
        return CachedEmbedder(self._model[0], folder=self._folder, progress=self.progress)


def data_fingerprint(dataset: ImageTextDataset) -> str:
    """A short hash of images, captions and every other column: labels decide metrics as captions do."""
    digest = hashlib.sha256(dataset.fingerprint().encode())
    for name in sorted(set(dataset.table.column_names) - {"texts"}):
        digest.update(f"\x1d{name}\x1d{dataset.table[name].to_pylist()!r}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _mismatch(model: str, data: str) -> str | None:
    """Why a model can judge nothing of some data; None where it can."""
    if data.startswith("vectors:") and not model.startswith("vectors:"):
        return "vectors without pixels, which only a model of vectors: can be judged on"
    return None


def _check(suite: Suite) -> None:
    """What can be said of a suite before anything is read."""
    if not suite.models:
        raise ConfigError("no model is named; give MODEL, --model NAME=MODEL, or models: in the suite's YAML")
    if not suite.data:
        raise ConfigError("no data are named; give DATA, --data NAME=DATA, or data: in the suite's YAML")
    for task in suite.tasks:
        check_options(task.name, with_train_split(task.name, task.options, "data"))
    for name, reference in suite.models.items():
        try:
            check_model(reference)
        except ConfigError as error:
            raise ConfigError(f"model {name!r}: {error}" if name != reference else str(error)) from error


def _data_option(task: str, key: str, value: Any, entry: SuiteData) -> SuiteData:
    """An option that names data; another split of the data that are judged has their columns and images."""
    given = suite_from_tree({"data": {key: value}}, source=f"task {task}").data[key]
    same = data_sources.parse_reference(given.path).base == data_sources.parse_reference(entry.path).base
    return entry.model_copy(update={"path": given.path}) if same and isinstance(value, str) else given


def run_suite(suite: Suite, *, force: bool = False, cache: bool = True, watch: Watch | None = None) -> list[CellResult]:
    """Judge every model of a suite on all its data by all its tasks, and write the tables.

    Args:
        suite: from `mmcl.config.suite.load_suite` or `suite_from_tree`.
        force: compute again what is already there.
        cache: see `SuitePlan`.
        watch: told how it gets on.

    Returns:
        The result of every cell; those that failed say why.

    Raises:
        ConfigError, DataError: see `SuitePlan`.
    """
    plan = SuitePlan(suite, cache=cache)
    plan.keep_suite()
    plan.run(force=force, watch=watch)
    results = plan.results()
    write_tables(results, plan.folder)
    return results
