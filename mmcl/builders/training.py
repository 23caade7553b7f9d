"""A recipe's names to objects, and `train`."""

from __future__ import annotations

import difflib
import functools
import math
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
from mmcl.builders.cross_fitting import CrossFit, caption_donors
from mmcl.builders.evaluation import build_evaluators, run_evaluators
from mmcl.builders.forgetting import BeforeAndAfter, restore_finetuned
from mmcl.builders.starting_models import build_starting_model
from mmcl.config import EvaluateSection, LossSection, Recipe, load_recipe
from mmcl.data.cache_folder import cache_folder
from mmcl.data.caption_groups import claim_ids
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.training_splits import Splits, load_splits
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import ConfigError
from mmcl.evaluation.blind import BlindEmbedder
from mmcl.hub.merging.training_effect import TrainingEffect
from mmcl.logs import get_logger
from mmcl.losses.barlow_twins import barlow_twins
from mmcl.losses.dcl import dcl
from mmcl.losses.info_nce import info_nce
from mmcl.losses.nt_xent import nt_xent
from mmcl.losses.sigmoid import sigmoid
from mmcl.losses.triplet import triplet
from mmcl.losses.vicreg import vicreg
from mmcl.models.adapters.lora import attach_lora
from mmcl.models.adapters.saving import save_adapters
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing, parameter_groups
from mmcl.models.heads import num_members
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.negatives.hardness import HardnessSchedule
from mmcl.noise.feature_mixup import FeatureMixup
from mmcl.noise.listing import FILE as SUSPICIOUS_PAIRS
from mmcl.noise.listing import write_suspicious_pairs
from mmcl.noise.trust import FIT_TO_JUDGE, TRUSTED, PairTrust
from mmcl.objectives.image_text import ImageTextObjective
from mmcl.objectives.kept_structure import KeptStructure
from mmcl.objectives.member_losses import on_members
from mmcl.objectives.whole_batch import PairLoss, on_whole_batch
from mmcl.training.cached_features import FeatureCache, ProgressCallback
from mmcl.training.checkpoint import has_checkpoint, replace_folder
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

# loss.name -> the function; its options are the keys that config.LOSS_OPTIONS lists.
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "info_nce": info_nce,
    "sigmoid": sigmoid,
    "dcl": on_whole_batch(dcl, takes_temperature=True),
    "nt_xent": on_whole_batch(nt_xent, takes_temperature=True),
    "triplet": on_whole_batch(triplet, takes_groups=True),
    "barlow_twins": on_whole_batch(barlow_twins, unit_variance=True),
    "vicreg": on_whole_batch(vicreg, unit_variance=True),
}
LOSSES_OF_PAIRS_ALONE = ("dcl", "nt_xent", "barlow_twins", "vicreg")  # to them rows of one group are strangers


def _sigmoid_chance(rows: int, captions: int, images: int) -> float:
    """Every decision answered "no" as often as it is right, by one logit for all of them."""
    decisions = rows + captions + images
    return math.log(decisions) - (decisions - 1) * math.log1p(-1 / decisions) if decisions > 1 else 0.0


# loss.name -> its value where a model cannot tell a batch's rows, further captions and further images apart; the others
# have none.
CHANCE_LOSSES: dict[str, Callable[[int, int, int], float]] = {
    "info_nce": lambda rows, captions, images: (math.log(rows + captions) + math.log(rows + images)) / 2,
    "sigmoid": _sigmoid_chance,
    "dcl": lambda rows, *_: math.log(max(1, 2 * rows - 2)),
    "nt_xent": lambda rows, *_: math.log(2 * rows - 1),
}
OBJECTIVES: dict[str, type[torch.nn.Module]] = {"image_text": ImageTextObjective}

VOCABULARY_ROWS = 1_000_000  # rows whose captions make a tiny tower's vocabulary
METRIC_ROWS = 200  # rows that usually show what an evaluation measures


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
    adapters = folder.with_name("adapters")
    for target, write in ((adapters, save_adapters), (folder, save_pretrained)):
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        if write(model, partial):
            replace_folder(partial, target)


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
        judged = PairTrust(recipe.noise, claim_ids(splits.train))
        learnt = replace(splits, train=_repaired(recipe, judged, splits.train, pair_losses))
    trainer = build_trainer(recipe, model, learnt, run, skips, accelerator, cache=cache, display=display)
    if judged is not None:
        trainer.objective.trust.judge(*pair_losses.unbind(1))
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
        _list_suspicious_pairs(run, judged or trainer.objective.trust, splits.train)
    if accelerator.is_main_process and not result.interrupted:
        effect = None if ends is None else ends.finish(step=result.progress.step)
        metrics = judge_best(recipe, run, splits, device=accelerator.device, cache=cache)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return TrainingRun(run.path, recipe, result, metrics, *_sizes(model), effect)


def _repaired(recipe: Recipe, trust: PairTrust, train: ImageTextDataset, losses: torch.Tensor) -> ImageTextDataset:
    """Judge the pairs; what is trained on, with a trusted caption for those that are left out and have one.

    Rows that take another's caption lose their losses: they count as that caption's rows do.
    """
    fitness = trust.judge(*losses.unbind(1))
    if fitness < FIT_TO_JUDGE:
        log.warning(
            "noise.method=cross_fit does nothing: the models of the folds tell %.0f %% of the pairs from pairs made "
            "wrong, and half would be chance; raise noise.fold_share or train.epochs, or make them learn first",
            100 * fitness,
        )
        return train
    rows = np.arange(len(train))
    donors = caption_donors(trust, train.group_ids().numpy()) if recipe.noise.repair else rows
    losses[torch.from_numpy(donors != rows)] = torch.nan
    log.info(
        "cross-fitting: %d of %d pairs look wrong; %d are left out, and %d of these come back with a caption of their "
        "group",
        int((trust.clean < TRUSTED).sum()), len(train), int((trust.weights == 0).sum()), int((donors != rows).sum()),
    )  # fmt: skip
    return train.with_captions_of(donors) if (donors != rows).any() else train


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


def build_objective(recipe: Recipe, model: DualEncoder, train: ImageTextDataset | None = None) -> ImageTextObjective:
    """The training method of a recipe, around a model whose towers are frozen as at the start.

    Args:
        recipe: what is asked for.
        model: what is trained.
        train: the training split, whose pairs ``noise.method`` judges; without it all are trusted.
    """
    section, alpha = recipe.loss, recipe.train.feature_mixup
    judged = recipe.noise.method != "none" and train is not None
    if set(section.names) & set(LOSSES_OF_PAIRS_ALONE) and recipe.batches.name != "unique_groups":
        log.info(
            "loss.name=%s takes rows of one group for negatives of one another; batches.name=unique_groups keeps them "
            "apart",
            section.name,
        )
    growing = section.hardness_schedule != "constant"
    return ImageTextObjective(
        model,
        _loss(section, num_members(model.image.head)),
        use_groups=section.positives == "group",
        negatives=recipe.negatives,
        hardness_schedule=HardnessSchedule(section.hardness, section.hardness_schedule) if growing else None,
        trust=PairTrust(recipe.noise, claim_ids(train)) if judged else None,
        mixup=FeatureMixup(alpha, seed=recipe.run.seed) if alpha > 0 else None,
        structure=_structure(section, num_members(model.image.head)),
        # Where few negatives of a row count, nobody knows beforehand how many.
        chance=_chance(section) if section.mining == "none" else None,
        **section.options,
    )


def _loss(section: LossSection, members: int) -> PairLoss:
    """The loss of a model whose heads have so many members."""
    if members == 1:
        return LOSSES[section.name]
    if not section.members:
        return on_members([LOSSES[section.name]] * members)
    if len(section.members) != members:
        raise ConfigError(f"loss.members are {len(section.members)}, and the model's heads have {members} members")
    losses = [functools.partial(LOSSES[one.name], **one.options) for one in section.members]
    return on_members(losses, [one.logit_scale for one in section.members])


def _structure(section: LossSection, members: int) -> KeptStructure | None:
    kept = KeptStructure({"image": section.image_structure, "text": section.text_structure}, members=members)
    return kept if kept.weights else None


def _chance(section: LossSection) -> Callable[[int, int, int], float] | None:
    """Chance of the mean over members; None where one of them has none."""
    each = [CHANCE_LOSSES.get(name) for name in section.names]
    if None in each:
        return None
    return lambda *counts: sum(chance(*counts) for chance in each) / len(each)


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


def _list_suspicious_pairs(run: RunFolder, trust: PairTrust | None, train: ImageTextDataset) -> None:
    if trust is None:
        return
    path = run.path / SUSPICIOUS_PAIRS
    if trust.looks_on and not trust.has_begun:
        log.warning(
            "noise.method=%s did nothing: the run ended within noise.warmup_epochs=%d epochs",
            trust.section.method,
            trust.section.warmup_epochs,
        )
    listed = write_suspicious_pairs(
        path, trust, name=lambda row: str(train.value("id", row) or row), caption=lambda row: train.texts(row)[0]
    )
    log.info(
        "%d of %d training pairs look more likely wrong than right: %s lists them. Rare and hard pairs look so "
        "too: look at them before you leave any out",
        listed,
        len(train),
        path,
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
