"""What a training does to the model it starts from: judged before and after, and a way back (`evaluate.wise_ft`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mmcl.builders.judged_data import in_words, is_test, judged_data
from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.training_splits import Splits
from mmcl.embedder import CachedEmbedder, DualEncoderEmbedder, Embedder
from mmcl.errors import ConfigError, DataError, MissingDependencyError
from mmcl.evaluation.forgetting import Forgetting, measure_changes
from mmcl.hub.merging.batch_statistics import batch_norms, reestimate_batch_norm
from mmcl.hub.merging.choosing import Choice, check_rule, choose
from mmcl.hub.merging.judging import ProgressCallback
from mmcl.hub.merging.matching import check_mergeable
from mmcl.hub.merging.record import MergeRecord, write_merged
from mmcl.hub.merging.shared_parts import SharedParts
from mmcl.hub.merging.training_effect import TrainingEffect
from mmcl.hub.merging.wise_ft import Sweep, interpolate, sweep
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.training.cached_features import FeatureCache
from mmcl.training.checkpoint import mend_folder, replace_folder
from mmcl.training.runs import RunFolder

log = get_logger(__name__)

START, FINETUNED, RESULT, PAGE = "model_start", "model_finetuned", "forgetting.json", "report/forgetting.html"
# Rows of the training split on which batch norms of a model between two others are estimated anew.
BATCH_NORM_ROWS = 512


class BeforeAndAfter:
    """Judges what a run starts from and what it ends with, and chooses between the two where that is asked for.

    Build it on every process, so that all see the same mistake; call it on the main process alone.

    Args:
        recipe: its ``evaluate.before`` and ``evaluate.wise_ft`` say what is done.
        run: where the starting model, the result and the page go.
        splits: the run's own; the validation split is judged first, the test split never.
        device: where models run.
        cache: features of frozen towers, or None.
        progress: told how far it is.

    Raises:
        ConfigError: WiSE-FT is asked for where it can choose nothing; a metric or task that the data do not allow.
        DataError: data of ``evaluate.before`` cannot be read.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFolder,
        splits: Splits,
        *,
        device: torch.device,
        cache: FeatureCache | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._recipe, self._run, self._splits = recipe, run, splits
        self._device, self._cache, self._progress = device, cache, progress
        section = recipe.evaluate
        self._scratch = starts_from_scratch(recipe)
        if section.wise_ft.enabled:
            _check_wise_ft(recipe, splits, scratch=self._scratch)
        self._judged = judged_data(section, splits)
        self._notes = self._said_beforehand()

    @classmethod
    def of(cls, recipe: Recipe, run: RunFolder, splits: Splits, **options: Any) -> BeforeAndAfter | None:
        """What a recipe asks for; None where it asks for nothing.

        Args:
            recipe, run, splits: see the class.
            options: its keywords.
        """
        asked = bool(recipe.evaluate.before) or recipe.evaluate.wise_ft.enabled
        return cls(recipe, run, splits, **options) if asked else None

    def begin(self, model: DualEncoder) -> dict[str, dict[str, Any]]:
        """Keep the starting model and judge it; a run that goes on finds both and does neither again.

        Args:
            model: as it is before the first step.

        Returns:
            Data name -> what was measured there.
        """
        folder, kept = self._run.path / START, self._run.path / RESULT
        mend_folder(folder)
        if not folder.is_dir():
            partial = folder.with_name(f".{START}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            save_pretrained(model, partial)
            replace_folder(partial, folder)
        before = json.loads(kept.read_text(encoding="utf-8")).get("before", {}) if kept.is_file() else {}
        if before.keys() == self._judged.keys():
            return before
        start = from_pretrained(folder)
        apply_freezing(start, self._recipe.model)  # towers that never change find their features in the cache
        embedder = CachedEmbedder(DualEncoderEmbedder(start, device=self._device, features=self._cache))
        found = {}
        for number, (name, one) in enumerate(self._judged.items()):
            found[name] = one.measure(embedder)
            self._tell("judging the starting model", number + 1, len(self._judged))
        for name, metrics in found.items():
            log.info("before training, %s: %s", name, in_words(metrics))
        for note in self._notes:
            log.warning(note)
        self._run.write_json(RESULT, {"before": found})
        flat = {f"before/{name}/{key}": v for name, metrics in found.items() for key, v in metrics.items()}
        self._run.append_metrics({"step": 0, **flat})
        return found

    def finish(self, *, step: int) -> TrainingEffect:
        """Judge the best model against the start; with WiSE-FT, put the chosen one in its place first.

        Args:
            step: the last one, for ``metrics.jsonl``.

        Returns:
            What the training did; it is written to the run folder too, with its page.
        """
        run = self._run
        start, best = from_pretrained(run.path / START), from_pretrained(run.model)
        parts = self._shared_parts(start, best)
        found: Sweep | None = None
        choice: Choice | None = None
        model = best
        if self._recipe.evaluate.wise_ft.enabled:
            found, choice, model = self._choose(start, best, parts)
        before = CachedEmbedder(parts(start))
        finetuned = None
        if model is not best:
            finetuned = self._compare(before, parts(best))
        effect = TrainingEffect(self._compare(before, parts(model)), finetuned, found, choice, self._notes)
        self._write(effect, step)
        return effect

    def _said_beforehand(self) -> list[str]:
        section, notes = self._recipe.evaluate, []
        if self._scratch:
            notes.append(
                "The run starts from random heads or towers, so that its figures before training are those of chance "
                "and there is nothing to forget; a start that works is a model (model.init_from)."
            )
        tests = [one.data for one in section.before if is_test(one.data)]
        if section.wise_ft.enabled and tests:
            notes.append(
                f"Alpha is chosen on test data too ({', '.join(tests)}), so that the figures there are optimistic; "
                f"name validation data in evaluate.before, and judge the chosen model on test data once."
            )
        return notes

    # -- what is done at the end ---------------------------------------------------------------------------------

    def _shared_parts(self, start: DualEncoder, best: DualEncoder) -> SharedParts:
        cache = self._cache
        options: dict[str, Any] = {"device": self._device, "batch_size": self._recipe.evaluate.batch_size}
        if cache is not None:  # where the run keeps them, and as it computes them
            options |= {"folder": cache.folder, "batch_size": cache.batch_size}
            options["precision"] = "bf16" if cache.bf16 else "fp32"
        return SharedParts.of([start, best], refreshed=_needs_refresh(start, best), **options)

    def _choose(self, start: DualEncoder, best: DualEncoder, parts: SharedParts) -> tuple[Sweep, Choice, DualEncoder]:
        """The sweep, what it chose, and that model, which is now the run's; the best one lies beside it."""
        section, run = self._recipe.evaluate.wise_ft, self._run
        check_mergeable(start, best, names=("the start", "the best model"))
        refresh = self._refresher() if _needs_refresh(start, best) else None
        found = sweep(
            start, best, {name: one.judge for name, one in self._judged.items()},
            {name: one.metric for name, one in self._judged.items()},
            alphas=section.alphas, make_embedder=parts, refresh=refresh, progress=self._tell,
        )  # fmt: skip
        choice = choose(found, rule=section.rule, keep=section.keep)
        if choice.alpha == 1:
            return found, choice, best
        model = interpolate(start, best, choice.alpha)
        if refresh is not None and choice.alpha != 0:
            refresh(model)
        settings = {"alpha": choice.alpha, "chosen_by": choice.reason}
        record = MergeRecord("wise_ft", [START, FINETUNED], settings, found.at(choice.alpha))
        partial = run.path / f".{FINETUNED}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(run.model, partial)
        replace_folder(partial, run.path / FINETUNED)
        chosen = run.path / ".model_chosen.partial"
        shutil.rmtree(chosen, ignore_errors=True)
        write_merged(model, chosen, record)
        replace_folder(chosen, run.model)
        return found, choice, model

    def _refresher(self) -> Callable[[DualEncoder], None]:
        train = self._splits.train
        drawn = np.random.default_rng([self._recipe.run.seed, 3]).permutation(len(train))[:BATCH_NORM_ROWS]
        rows = np.sort(drawn).tolist()
        images = [image for row in rows if (image := _read(train, row)) is not None]
        texts = [text for row in rows for text in train.column("texts")[row][:1]]
        return lambda model: reestimate_batch_norm(model, images, texts, batch_size=64)

    def _compare(self, before: Embedder, after: Embedder) -> Forgetting:
        return measure_changes(
            before,
            after,
            {name: one.dataset for name, one in self._judged.items()},
            tasks={name: one.tasks for name, one in self._judged.items()},
            trained_for=self._splits.validation is not None,
            batch_size=self._recipe.evaluate.batch_size,
        )

    def _write(self, effect: TrainingEffect, step: int) -> None:
        kept = json.loads((self._run.path / RESULT).read_text(encoding="utf-8"))
        self._run.write_json(RESULT, {"before": kept["before"], **effect.to_dict()})
        record = {"step": step, **effect.forgetting.to_metrics()}
        if effect.choice is not None:
            record["wise_ft/alpha"] = effect.choice.alpha
        name = next(key for key in record if key.startswith("forgetting/"))
        if not any(line.get("step") == step and name in line for line in self._run.read_metrics()):
            self._run.append_metrics(record)
        try:
            page = effect.page(title=f"{self._recipe.name}: before and after training")
            (self._run.path / PAGE).parent.mkdir(exist_ok=True)
            page.write(self._run.path / PAGE)
        except MissingDependencyError as error:
            log.warning("%s is not written: %s", PAGE, error)

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(what, done, total)


def restore_finetuned(run: RunFolder) -> None:
    """Put the best model back in the place of the one that WiSE-FT chose, before a run goes on.

    Training compares with its best model, and the choice is made again at the end.

    Args:
        run: whose folder; nothing is done where it holds no `FINETUNED`.
    """
    folder = run.path / FINETUNED
    mend_folder(folder)
    if folder.is_dir():
        replace_folder(folder, run.model)


def starts_from_scratch(recipe: Recipe) -> bool:
    """Whether the starting model cannot work: towers or heads are random.

    Args:
        recipe: a model in ``model.init_from`` works, and so may two pretrained towers without heads (``head.name:
            none``), such as those of one open_clip model.
    """
    model = recipe.model
    if model.init_from is not None:
        return False
    return not all(
        tower.head.name == "none" and tower.pretrained and tower.name != "tiny" for tower in (model.image, model.text)
    )


def _check_wise_ft(recipe: Recipe, splits: Splits, *, scratch: bool) -> None:
    section = recipe.evaluate
    if scratch:
        raise ConfigError(
            "evaluate.wise_ft.enabled chooses between what a run starts from and what it ends with, and this one "
            "starts from random heads or towers; start from a model (model.init_from=MODEL), or set "
            "evaluate.wise_ft.enabled=false"
        )
    if splits.validation is None:
        raise ConfigError("evaluate.wise_ft.enabled chooses on the validation split; give data.split.validation")
    if section.mode == "min":
        raise ConfigError(
            f"evaluate.wise_ft.enabled takes the highest evaluate.metric, and evaluate.mode is 'min' for "
            f"{section.metric}; choose another evaluate.metric"
        )
    if section.wise_ft.rule not in (None, "target") and not section.before:
        raise ConfigError(
            f"evaluate.wise_ft.rule={section.wise_ft.rule} weighs validation against other data; name them in "
            f"evaluate.before, or set evaluate.wise_ft.rule=target"
        )
    check_rule(section.wise_ft.rule, section.wise_ft.keep, has_others=bool(section.before))


def _read(dataset: ImageTextDataset, row: int) -> Any:
    try:
        return dataset.images.read(row)
    except DataError:
        return None  # the run has listed it


def _needs_refresh(start: DualEncoder, best: DualEncoder) -> bool:
    """Whether batch norms lie between weights that differ: their statistics are no averages of the two.

    Where a tower kept its statistics while it trained (``keep_statistics``), so does every model between the two.
    """
    for side in ("image", "text"):
        if not batch_norms(start.encoder(side)):
            continue
        one, two = (model.encoder(side).tower.state_dict() for model in (start, best))
        moved = {name for name, value in one.items() if not torch.equal(value.cpu(), two[name].cpu())}
        statistics = {name for name in one if name.endswith(("running_mean", "running_var"))}
        if moved and (not statistics or moved & statistics):
            return True
    return False
