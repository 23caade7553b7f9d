"""Recipe -> objects: the only place where a recipe's names become code, and the two calls most people make."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmcl import data as data_sources
from mmcl import losses
from mmcl.config import EvaluateSection, Recipe, load_recipe
from mmcl.data.augment import ImageAugmentation, possible_captions, row_seed
from mmcl.data.cache_folder import cache_folder
from mmcl.data.collate import BatchReader, ImagePixels
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import DualEncoderEmbedder, Embedder, load
from mmcl.errors import ConfigError, DataError
from mmcl.evaluation import FoilEvaluator, RetrievalEvaluator, ZeroShotEvaluator, load_classes, load_templates
from mmcl.logs import get_logger, is_main_process
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.freezing import apply_freezing, parameter_groups
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.negatives.samplers import RandomBatches
from mmcl.objectives.image_text import ImageTextObjective
from mmcl.training.cached_features import FeatureCache, ProgressCallback, Views
from mmcl.training.launch import start_accelerator
from mmcl.training.optimizers import build_optimizer
from mmcl.training.runs import RunFolder
from mmcl.training.trainer import Display, Hooks, Trainer, TrainingResult

log = get_logger(__name__)

LOSSES: dict[str, Callable[..., torch.Tensor]] = {"info_nce": losses.info_nce}
OBJECTIVES: dict[str, type[torch.nn.Module]] = {"image_text": ImageTextObjective}

VOCABULARY_ROWS = 1_000_000  # rows whose captions make a tiny tower's vocabulary


# -- evaluation --------------------------------------------------------------------------------------------------


def _retrieval(dataset: ImageTextDataset, section: EvaluateSection, confidence: bool) -> Any:
    return RetrievalEvaluator(dataset, batch_size=section.batch_size, confidence=confidence)


def _zeroshot(dataset: ImageTextDataset, section: EvaluateSection, confidence: bool) -> Any:
    return ZeroShotEvaluator(
        dataset,
        classes=load_classes(section.classes) if section.classes else None,
        templates=load_templates(section.templates) if section.templates else None,
        batch_size=section.batch_size,
    )


def _foils(dataset: ImageTextDataset, section: EvaluateSection, confidence: bool) -> Any:
    return FoilEvaluator(dataset, batch_size=section.batch_size)


# Task -> how its evaluator is built, and the column it needs.
EVALUATORS: dict[str, tuple[Callable[[ImageTextDataset, EvaluateSection, bool], Any], str]] = {
    "retrieval": (_retrieval, "texts"),
    "zeroshot": (_zeroshot, "label"),
    "foils": (_foils, "foils"),
}


def build_evaluators(
    dataset: ImageTextDataset, section: EvaluateSection, *, tasks: Sequence[str], confidence: bool = True
) -> list[Any]:
    """The evaluators of the tasks that the data allow; a task whose column is missing is left out.

    Args:
        dataset: the split to judge on.
        section: batch size, classes and templates.
        tasks: names of ``EVALUATORS``.
        confidence: whether bootstrap intervals are computed (they take longer).

    Raises:
        ConfigError: an unknown task.
    """
    unknown = [task for task in tasks if task not in EVALUATORS]
    if unknown:
        raise ConfigError(f"unknown task {unknown[0]!r}; there are {', '.join(EVALUATORS)}")
    return [
        EVALUATORS[task][0](dataset, section, confidence) for task in tasks if dataset.has(EVALUATORS[task][1])
    ]


def run_evaluators(evaluators: Sequence[Any], embedder: Embedder) -> dict[str, Any]:
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
    batch_size: int = 64,
) -> dict[str, Any]:
    """Judge any model on any data.

    Args:
        model: an ``Embedder``, or a MODEL reference.
        data: a data set, or a DATA reference such as ``"path/to/data:test"``.
        tasks: what to measure; a task whose column (``label``, ``foils``) the data lack is left out.
        batch_size: items a forward pass.

    Returns:
        Metric names to values, ``*_ci95`` to ``[low, high]``.

    Raises:
        ConfigError, DataError: no such model, task or data.
    """
    embedder = load(model) if isinstance(model, (str, Path)) else model
    dataset = data if isinstance(data, ImageTextDataset) else data_sources.load(data)
    section = EvaluateSection(batch_size=batch_size)
    return run_evaluators(build_evaluators(dataset, section, tasks=tasks), embedder)


# -- data --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Splits:
    """The data of a run: what it learns from, what it is judged by on the way, and at the end."""

    train: ImageTextDataset
    validation: ImageTextDataset | None
    test: dict[str, ImageTextDataset] = field(default_factory=dict)


def _hold_out(dataset: ImageTextDataset, share: float, seed: int) -> tuple[ImageTextDataset, ImageTextDataset]:
    """Whole groups for validation, the rest for training."""
    groups = dataset.group_ids().numpy()
    number = int(groups.max()) + 1
    if number < 3:
        raise DataError(f"{dataset.name}: {number} group(s) are too few to hold some out; set data.split.validation=null")
    held = np.random.default_rng([seed, 1]).permutation(number)[: max(1, round(share * number))]
    inside = np.isin(groups, held)
    name = dataset.name
    validation = dataset.select(np.flatnonzero(inside), name=f"{name}:held out")
    return dataset.select(np.flatnonzero(~inside), name=f"{name}:rest"), validation


def load_splits(recipe: Recipe) -> Splits:
    """Load the splits that a recipe names.

    Data without a validation split lend ``data.holdout_share`` of their training groups; without a test split there is
    no final judgement on one. Both are logged.

    Raises:
        DataError: no such data, or no training split.
    """
    section = recipe.data
    columns = {key: value for key, value in section.columns.model_dump().items() if value is not None}

    def read(split: str | None) -> ImageTextDataset:
        return data_sources.load(section.path, split=split, columns=columns, images=section.images)

    there = data_sources.available_splits(section.path, columns=columns, images=section.images)
    train = read(section.split.train if there else None)
    wanted, validation = section.split.validation, None
    if wanted is not None and wanted in there:
        validation = read(wanted)
    elif wanted is not None:
        if wanted != "validation":
            raise DataError(f"{section.path} has no split {wanted!r} (data.split.validation); it has {', '.join(there)}")
        train, validation = _hold_out(train, section.holdout_share, recipe.run.seed)
        log.warning("%s has no validation split: %d rows of the training split are held out", train.name, len(validation))
    names = [] if not recipe.evaluate.at_end else [section.split.test, *recipe.evaluate.extra_splits]
    test = {name: read(name) for name in names if name is not None and name in there}
    for name in names:
        if name is not None and name not in there:
            log.warning("%s has no split %r: it is not judged at the end", section.path, name)
    most = recipe.evaluate.max_rows
    if validation is not None and most is not None and len(validation) > most:
        rows = np.sort(np.random.default_rng([recipe.run.seed, 2]).permutation(len(validation))[:most])
        validation = validation.select(rows, name=f"{validation.name} ({most} of {len(validation)} rows)")
    return Splits(train, validation, test)


def _note_load_skips(train: ImageTextDataset, share: float, run: RunFolder) -> None:
    run.append_skipped(train.skipped)
    total = len(train) + len(train.skipped)
    if train.skipped:
        log.warning("%d of %d rows cannot be used and are listed in %s", len(train.skipped), total, run.path / "skipped.jsonl")
    if len(train.skipped) > share * total:
        reasons = "; ".join(f"{row.source}: {row.reason}" for row in train.skipped[:3])
        raise DataError(
            f"{train.name}: {len(train.skipped)} of {total} rows cannot be used, more than data.max_skipped_share="
            f"{share} ({reasons}); mend the data or raise the share"
        )


# -- training ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingRun:
    """A finished or interrupted training.

    Attributes:
        folder: the run folder.
        recipe: what was run.
        result: how training ended.
        metrics: the best model's metrics by split; empty when interrupted or nothing was judged.
        num_parameters, num_trainable: of the model.
    """

    folder: Path
    recipe: Recipe
    result: TrainingResult
    metrics: dict[str, dict[str, Any]]
    num_parameters: int
    num_trainable: int

    @property
    def model(self) -> Path:
        """The folder of the best model."""
        return self.folder / "model"


def build_reader(
    recipe: Recipe, model: DualEncoder, train: ImageTextDataset, cache: FeatureCache | None
) -> BatchReader:
    """The training batches' reader: pixels and tokens, or cached features of towers that do not change."""
    section = recipe.data
    seed = recipe.run.seed
    preprocessing = model.image.tower.preprocessing
    augmentation = ImageAugmentation(section.augment, preprocessing) if section.augment.active else None
    image: Any = ImagePixels(train, preprocessing, augmentation)
    text: Any = model.text.tower.preprocessing
    if cache is not None and model.image.has_fixed_features:
        views = Views()
        if augmentation is not None:
            views = Views(
                recipe.train.feature_cache.views,
                augmentation,
                f"{section.augment.model_dump_json()} seed {seed}",
                lambda view, row: row_seed(seed, view, row),
            )
        image = cache.images(model.image, train, views=views, shared=True)
    if cache is not None and model.text.has_fixed_features:
        captions = {
            caption
            for row in range(len(train))
            for caption in possible_captions(train.texts(row), train.value("tags", row), section.captions)
        }
        text = cache.texts(model.text, list(captions), shared=True)
    return BatchReader(train, image, text, captions=section.captions, seed=seed)


def build_cache(
    recipe: Recipe, device: torch.device, progress: ProgressCallback | None
) -> FeatureCache | None:
    """The cache of frozen towers' features, unless the recipe turns it off."""
    section = recipe.train.feature_cache
    if not section.enabled:
        return None
    folder = Path(section.dir).expanduser() if section.dir else cache_folder() / "features"
    bf16 = section.precision == "bf16" or (section.precision == "auto" and recipe.train.precision == "bf16")
    return FeatureCache(folder, device=device, batch_size=section.batch_size, bf16=bf16, progress=progress)


def _build_model(recipe: Recipe, train: ImageTextDataset) -> DualEncoder:
    torch.manual_seed(recipe.run.seed)  # the same weights on every process
    captions = (caption for row in range(min(len(train), VOCABULARY_ROWS)) for caption in train.texts(row))
    model = build_dual_encoder(recipe.model, captions=captions)
    if recipe.train.gradient_checkpointing:
        model.image.tower.set_gradient_checkpointing()
        model.text.tower.set_gradient_checkpointing()
    if recipe.train.compile:
        model.image.tower.compile()
        model.text.tower.compile()
    return model


def _build_batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder) -> RandomBatches:
    lengths = None
    if recipe.data.bucket_by_length:
        first = [train.texts(row)[0] for row in range(len(train))]
        lengths = model.text.tower.preprocessing.lengths(first)
    return RandomBatches(len(train), recipe.train.batch_size, seed=recipe.run.seed, lengths=lengths)


def _replace_model(model: DualEncoder, folder: Path) -> None:
    """Write the model beside and move it into place: a kill leaves the earlier one."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_pretrained(model, partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def build_hooks(
    recipe: Recipe,
    model: DualEncoder,
    splits: Splits,
    *,
    device: torch.device,
    cache: FeatureCache | None,
    display: Display | None,
) -> Hooks:
    """What the trainer calls: judging on validation, saving, thawing, showing."""
    judge = None
    if splits.validation is not None and is_main_process():
        section = recipe.evaluate
        evaluators = build_evaluators(splits.validation, section, tasks=section.tasks, confidence=False)
        embedder = DualEncoderEmbedder(model, device=device, features=cache)

        def judge() -> dict[str, Any]:
            return run_evaluators(evaluators, embedder)

    elif splits.validation is not None:

        def judge() -> dict[str, Any]:
            raise RuntimeError("only the main process judges")

    thaws = any(tower.freeze_until_epoch is not None for tower in (recipe.model.image, recipe.model.text))
    ids = splits.train
    return Hooks(
        save_model=lambda folder: _replace_model(model, folder),
        judge=judge,
        thaw=(lambda epoch: apply_freezing(model, recipe.model, epoch=epoch)) if thaws else None,
        display=display,
        row_name=lambda row: str(ids.value("id", row) or row),
    )


def train(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    smoke: bool = False,
    display: Display | None = None,
    progress: ProgressCallback | None = None,
) -> TrainingRun:
    """Run a recipe: load its data, train, keep the best model, judge it.

    Args:
        recipe: a recipe, its file, or the name of one that ships with mmcl.
        overrides: ``key=value`` pairs.
        resume: go on with the run in the run folder.
        smoke: a few steps only.
        display: told of every step and evaluation.
        progress: told how far the cache of features is.

    Returns:
        The run; its ``model`` loads with ``mmcl.load``.

    Raises:
        ConfigError, DataError, TrainingError: what is wrong, where, and how to mend it.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, smoke=smoke)
    accelerator = start_accelerator(recipe.run, precision=recipe.train.precision, folder=recipe.run_dir)
    run = RunFolder(recipe.run_dir, writes=accelerator.is_main_process)
    splits = load_splits(recipe)
    run.open(recipe.model_dump(mode="json"), resume=resume)
    accelerator.wait_for_everyone()
    if not resume:
        _note_load_skips(splits.train, recipe.data.max_skipped_share, run)
    model = _build_model(recipe, splits.train)
    apply_freezing(model, recipe.model)
    cache = build_cache(recipe, accelerator.device, progress)
    optimizer = build_optimizer(parameter_groups(model, recipe.model, recipe.optimizer), recipe.optimizer)
    objective = ImageTextObjective(
        model,
        LOSSES[recipe.loss.name],
        use_groups=recipe.loss.positives == "group",
        label_smoothing=recipe.loss.label_smoothing,
    )
    trainer = Trainer(
        objective,
        optimizer,
        reader=build_reader(recipe, model, splits.train, cache),
        batches=_build_batches(recipe, splits.train, model),
        recipe=recipe,
        run=run,
        accelerator=accelerator,
        hooks=build_hooks(recipe, model, splits, device=accelerator.device, cache=cache, display=display),
    )
    if recipe.run.tracker != "none":
        accelerator.init_trackers("mmcl", config={"recipe": recipe.model_dump_json()})
    torch.manual_seed(recipe.run.seed + 7919 * accelerator.process_index)  # dropout differs between processes
    result = trainer.fit(resume=resume)
    metrics = {}
    if accelerator.is_main_process and not result.interrupted:
        metrics = judge_best(recipe, run, splits, device=accelerator.device, cache=cache)
    accelerator.end_training()
    return TrainingRun(
        run.path, recipe, result, metrics, model.num_parameters(), model.num_parameters(trainable=True)
    )


def judge_best(
    recipe: Recipe, run: RunFolder, splits: Splits, *, device: torch.device, cache: FeatureCache | None
) -> dict[str, dict[str, Any]]:
    """Load the best model back from the run folder and judge it on the test splits; written to ``evaluation.json``."""
    if not splits.test:
        return {}
    embedder = DualEncoderEmbedder(from_pretrained(run.model), device=device, features=cache)
    metrics = {
        name: run_evaluators(build_evaluators(split, recipe.evaluate, tasks=recipe.evaluate.tasks), embedder)
        for name, split in splits.test.items()
    }
    run.write_json("evaluation.json", metrics)
    return metrics


def read_evaluation(folder: str | Path) -> dict[str, dict[str, Any]]:
    """The metrics that a finished run's best model reached on its test splits; empty when there are none."""
    path = Path(folder) / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
