"""A recipe's names to objects, and `train`."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmcl.auto_recipe import early_precision
from mmcl.builders.automatic import settle_recipe
from mmcl.builders.batches import build_batches
from mmcl.builders.cross_fitting import CrossFit
from mmcl.builders.forgetting import BeforeAndAfter, restore_finetuned
from mmcl.builders.judging import build_judge, judge_best
from mmcl.builders.objective import build_objective
from mmcl.builders.pair_judging import claims_of, judged_donors, list_suspicious_pairs
from mmcl.builders.starting_models import build_starting_model
from mmcl.config import Recipe, load_recipe
from mmcl.data.cache_folder import cache_folder
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.training_splits import Splits, load_splits
from mmcl.hub.merging.training_effect import TrainingEffect
from mmcl.logs import get_logger
from mmcl.models.adapters.lora import attach_lora
from mmcl.models.adapters.saving import save_adapters
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing, parameter_groups
from mmcl.models.saving import save_pretrained
from mmcl.noise.trust import PairTrust
from mmcl.training.cached_features import FeatureCache, ProgressCallback
from mmcl.training.checkpoint import ADAPTERS, has_checkpoint, replace_folder
from mmcl.training.inputs import TrainingInputs
from mmcl.training.launch import start_accelerator
from mmcl.training.optimizers import build_optimizer
from mmcl.training.progress import TrainingResult
from mmcl.training.protocols import Batches, Display, Hooks
from mmcl.training.runs import RunFolder
from mmcl.training.skips import SkipLedger
from mmcl.training.some_rows import SomeRows
from mmcl.training.trainer import Trainer

log = get_logger(__name__)

VOCABULARY_ROWS = 1_000_000  # rows whose captions make a tiny tower's vocabulary


@dataclass(frozen=True)
class TrainingRun:
    """A finished or interrupted training.

    Attributes:
        folder: the run folder.
        recipe: what was run.
        result: how training ended.
        metrics: the best model's metrics by split; empty when interrupted or nothing was judged.
        num_parameters, num_trainable: of the model.
        effect: what it did to the model it started from, where ``evaluate.before`` or ``evaluate.wise_ft`` asked.
    """

    folder: Path
    recipe: Recipe
    result: TrainingResult
    metrics: dict[str, dict[str, Any]]
    num_parameters: int
    num_trainable: int
    effect: TrainingEffect | None = None

    @property
    def model(self) -> Path:
        """The folder of the best model."""
        return self.folder / "model"


def build_cache(recipe: Recipe, device: torch.device, progress: ProgressCallback | None) -> FeatureCache | None:
    """The cache of frozen towers' features, unless the recipe turns it off."""
    section = recipe.train.feature_cache
    if not section.enabled:
        return None
    folder = Path(section.dir).expanduser() if section.dir else cache_folder() / "features"
    bf16 = section.precision == "bf16" or (section.precision == "auto" and recipe.train.precision == "bf16")
    return FeatureCache(folder, device=device, batch_size=section.batch_size, bf16=bf16, progress=progress)


def _first_captions(train: ImageTextDataset) -> Iterator[str]:
    for texts in train.table["texts"].slice(0, VOCABULARY_ROWS).to_pylist():  # runs only where captions are asked for
        yield from texts


def build_model(recipe: Recipe, train: ImageTextDataset) -> DualEncoder:
    """The model a training starts from: its weights, adapters, and what of them trains, by the recipe alone."""
    torch.manual_seed(recipe.run.seed)  # the same weights on every process
    model = build_starting_model(recipe, captions=_first_captions(train))
    attach_lora(model, recipe.model)
    if recipe.train.gradient_checkpointing:
        model.image.tower.set_gradient_checkpointing()
        model.text.tower.set_gradient_checkpointing()
    if recipe.train.compile:
        model.image.tower.compile()
        model.text.tower.compile()
    apply_freezing(model, recipe.model)
    return model


def _replace_model(model: DualEncoder, folder: Path) -> None:
    """Write the model, and what adapters it has, beside and move it into place: a kill leaves the earlier one."""
    adapters = folder.with_name(ADAPTERS)
    for target, write in ((adapters, save_adapters), (folder, save_pretrained)):
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if write(model, partial):
            replace_folder(partial, target)


def train(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    resume: bool = False,
    smoke: bool = False,
    display: Display | None = None,
    progress: ProgressCallback | None = None,
    announce: Callable[[str], None] | None = None,
) -> TrainingRun:
    """Run a recipe: load its data, train, keep the best model, judge it.

    Args:
        recipe: a recipe, its file, or the name of one that ships with mmcl.
        overrides: ``key=value`` pairs.
        resume: go on with the run in the run folder.
        smoke: a few steps only.
        display: told of every step and evaluation.
        progress: told how far the drawing of built-in data and the cache of features are.
        announce: told what ``recipe: auto`` chose and why; None: it is logged.

    Returns:
        The run; its ``model`` loads with ``mmcl.load``.

    Raises:
        ConfigError, DataError, TrainingError: what is wrong, where, and how to mend it.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, smoke=smoke)
    accelerator = start_accelerator(recipe.run, precision=early_precision(recipe), folder=recipe.run_dir)
    run = RunFolder(recipe.run_dir, writes=accelerator.is_main_process)
    recipe = settle_recipe(recipe, run, resume=resume, announce=announce, progress=progress)
    values = recipe.model_dump(mode="json")
    run.prepare(values, resume=resume)
    accelerator.wait_for_everyone()  # every process has looked before one of them writes
    splits = load_splits(recipe, progress=progress)
    skips = SkipLedger(
        run,
        dropped=splits.train.skipped,
        usable=len(splits.train),
        share=recipe.data.max_skipped_share,
    )
    model = build_model(recipe, splits.train)
    cache = build_cache(recipe, accelerator.device, progress)
    # What is wrong with the data that are judged before and after is told before features are computed.
    ends = BeforeAndAfter.of(recipe, run, splits, device=accelerator.device, cache=cache, progress=progress)
    judged, learnt = None, splits
    if recipe.noise.method == "cross_fit":
        build_judge(recipe, model, splits, cache, accelerator.device)  # told before the folds, which judge nothing
        crossing = CrossFit(recipe, splits.train, run, cache=cache, device=accelerator.device, progress=progress)
        if not resume:
            run.begin(values)
        pair_losses, broken_off = crossing.losses(
            functools.partial(_train_fold, train=splits.train, accelerator=accelerator, cache=cache)
        )
        if broken_off is not None:
            accelerator.end_training()
            return TrainingRun(run.path, recipe, broken_off, {}, *_sizes(model))
        accelerator.free_memory()
        judged = PairTrust(recipe.noise, claims_of(splits.train))
        donors = judged_donors(recipe, judged, splits.train, pair_losses)
        learnt = replace(splits, train=splits.train.with_captions_of(donors))
    trainer = build_trainer(recipe, model, learnt, run, skips, accelerator, cache=cache, display=display)
    if judged is not None:
        trainer.objective.trust.take_over(judged, torch.from_numpy(donors))
    if not resume:
        run.begin(values)
    if recipe.run.tracker != "none":
        accelerator.init_trackers("mmcl", config={"recipe": recipe.model_dump_json()})
    if accelerator.is_main_process:
        if resume:
            restore_finetuned(run)
        if ends is not None:
            ends.begin(model)
    accelerator.wait_for_everyone()
    torch.manual_seed(recipe.run.seed + 7919 * accelerator.process_index)  # dropout differs between processes
    result = trainer.fit(resume=resume)
    metrics, effect = {}, None
    if accelerator.is_main_process:
        list_suspicious_pairs(run, judged or trainer.objective.trust, splits.train)
    if accelerator.is_main_process and not result.interrupted:
        effect = None if ends is None else ends.finish(step=result.progress.step)
        metrics = judge_best(recipe, run, splits, device=accelerator.device, cache=cache)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return TrainingRun(run.path, recipe, result, metrics, *_sizes(model), effect)


def _sizes(model: DualEncoder) -> tuple[int, int]:
    return model.num_parameters(), model.num_parameters(trainable=True)


def _train_fold(
    recipe: Recipe,
    rows: np.ndarray,
    run: RunFolder,
    display: Display,
    *,
    train: ImageTextDataset,
    accelerator: Any,
    cache: FeatureCache | None,
) -> tuple[DualEncoder, TrainingResult]:
    """A run within the run: a model of its own, trained on some rows and judged by nobody."""
    resume = has_checkpoint(run.checkpoints)
    values = recipe.model_dump(mode="json")
    accelerator.wait_for_everyone()
    run.prepare(values, resume=resume)
    skips = SkipLedger(run, dropped=[], usable=len(train), share=recipe.data.max_skipped_share)
    model = build_model(recipe, train)
    splits = Splits(train, None, {})
    trainer = build_trainer(recipe, model, splits, run, skips, accelerator, cache=cache, display=display, rows=rows)
    if not resume:
        run.begin(values)
    accelerator.wait_for_everyone()
    torch.manual_seed(recipe.run.seed + 7919 * accelerator.process_index)
    return model, trainer.fit(resume=resume)


def build_trainer(
    recipe: Recipe,
    model: DualEncoder,
    splits: Splits,
    run: RunFolder,
    skips: SkipLedger,
    accelerator: Any,
    *,
    cache: FeatureCache | None,
    display: Display | None,
    rows: np.ndarray | None = None,
) -> Trainer:
    """The trainer of a recipe, ready to start; what is wrong with the recipe is told here.

    Args:
        recipe: an ordinary one; see ``settle_recipe`` for ``recipe: auto``.
        model: from ``build_model``.
        splits: the data.
        run: where it writes.
        skips: rows left out so far.
        accelerator: device, processes, precision and trackers.
        cache: features of frozen towers; None: towers always run.
        display: told of every step and evaluation.
        rows: (k,) int64, ascending; the rows of the training split that are trained on; None: all.

    Raises:
        ConfigError: what of the recipe does not fit the data or the model.
    """
    optimizer = build_optimizer(parameter_groups(model, recipe.model, recipe.optimizer), recipe.optimizer)
    objective = build_objective(recipe, model, splits.train)
    # What is wrong with the evaluation is told before features are computed.
    judge = build_judge(recipe, model, splits, cache, accelerator.device)
    inputs = TrainingInputs(recipe, model, splits.train, cache)
    hooks = Hooks(
        save_model=lambda folder: _replace_model(model, folder),
        judge=judge,
        thaw=inputs.thaw,
        display=display,
        row_name=lambda row: str(splits.train.value("id", row) or row),
    )
    return Trainer(
        objective,
        optimizer,
        reader=inputs.reader,
        batches=_batches(recipe, splits.train, model, rows),
        recipe=recipe,
        run=run,
        skips=skips,
        accelerator=accelerator,
        hooks=hooks,
    )


def _batches(recipe: Recipe, train: ImageTextDataset, model: DualEncoder, rows: np.ndarray | None) -> Batches:
    if rows is None:
        return build_batches(recipe, train, model)
    return SomeRows(build_batches(recipe, train.select(rows), model), rows)
