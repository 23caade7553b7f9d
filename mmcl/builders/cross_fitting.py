"""`CrossFit`: each pair judged by a model that was trained without it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.config import Recipe
from mmcl.data.caption_groups import stated_group_ids
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import DualEncoderEmbedder, embed_images
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.dual_encoder import DualEncoder
from mmcl.noise.trust import TRUSTED, PairTrust
from mmcl.objectives.pair_losses import pair_losses
from mmcl.training.cached_features import FeatureCache, ProgressCallback
from mmcl.training.gather import broadcast_object
from mmcl.training.progress import TrainingResult
from mmcl.training.runs import RunFolder

log = get_logger(__name__)

FOLDER = "cross_fit"  # in the run folder
CANDIDATES = 4096  # pairs that are judged against one another, at most
NEVER = 10**9  # steps

# (recipe, rows that are trained on, folder of the run, display) -> the model, and how its training ended
TrainFold = Callable[[Recipe, np.ndarray, RunFolder, Any], tuple[DualEncoder, TrainingResult]]


def fold_of_rows(groups: np.ndarray, folds: int, *, seed: int) -> np.ndarray:
    """(n,) int64, the fold of each row: whole groups, as many in each fold, drawn by the seed.

    A wrong caption often stands at all images of a group; a model that has seen one of them would know the others.

    Args:
        groups: (n,) int64.
        folds: at least 2.
        seed: of the draw.

    Raises:
        ConfigError: there are fewer groups than twice the folds.

    Example:
        >>> fold_of_rows(np.array([5, 5, 7, 8, 9]), 2, seed=0).tolist()
        [0, 0, 1, 0, 1]
    """
    names, own = np.unique(groups, return_inverse=True)
    if len(names) < 2 * folds:
        raise ConfigError(
            f"noise.method=cross_fit with noise.folds={folds} needs {2 * folds} groups of captions or more, and the "
            f"training split has {len(names)}; take fewer folds or noise.method=mixture"
        )
    return (np.random.default_rng([seed, folds]).permutation(len(names)) % folds)[own]


def of_another_group(groups: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """(n,) for each row a row of another group, the same for all rows of its group; itself where there is one group.

    Args:
        groups: (n,) int64.
        draw: of which group.
    """
    names, first, own = np.unique(groups, return_index=True, return_inverse=True)
    order = draw.permutation(len(names))
    another = np.empty_like(order)
    another[order] = np.roll(order, 1)  # one cycle through all groups: none is its own
    return first[another[own]]


def caption_donors(trust: PairTrust, groups: np.ndarray) -> np.ndarray:
    """(n,) int64, the row whose captions each row is to have: its own, or of a pair left out, the best of its group.

    All captions of a group describe all its images; where one row's is wrong, another's may be right.

    Args:
        trust: that has judged the pairs.
        groups: (n,) int64.
    """
    clean, weights = trust.clean.cpu().numpy(), trust.weights.cpu().numpy()
    best_first = np.lexsort((np.arange(len(groups)), -clean, groups))
    _, first, own = np.unique(groups[best_first], return_index=True, return_inverse=True)
    best = np.empty(len(groups), dtype=np.int64)
    best[best_first] = best_first[first][own]
    helped = (weights == 0) & (weights[best] > 0) & (clean[best] >= TRUSTED)
    return np.where(helped, best, np.arange(len(groups)))


@dataclass
class _FoldDisplay:
    """Shows a fold's steps as progress."""

    title: str
    progress: ProgressCallback | None

    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        if self.progress is not None:
            self.progress(self.title, record["step"], total_steps)

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None:
        """There is none."""


class CrossFit:
    """Trains a model for each fold on all the others, and judges the fold by it.

    A model learns the wrong pairs it is trained on by heart, the sooner the fewer there are, and then finds nothing
    wrong with them. One that has not seen them cannot.

    The losses of a finished fold are kept in the run folder (``cross_fit/fold_1.safetensors``), and a fold that was
    broken off goes on where it was; so a run that is resumed loses nothing.

    Args:
        recipe: of the run; a fold is trained by the same, without evaluations, for ``noise.fold_share`` of its epochs.
        train: the training split.
        run: the run folder.
        cache: features of frozen towers, or None.
        device: where models run.
        progress: told how far each fold is.

    Source: Northcutt et al. 2021, confident learning (arXiv:1911.00068) section 3: probabilities predicted out of
    sample; Chen et al. 2019 (arXiv:1905.05040), which splits the data for the same end. What is made of the losses is
    ``PairTrust``'s.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageTextDataset,
        run: RunFolder,
        *,
        cache: FeatureCache | None,
        device: torch.device,
        progress: ProgressCallback | None = None,
    ) -> None:
        self._recipe, self._train, self._run = recipe, train, run
        self._cache, self._device, self._progress = cache, device, progress
        groups = stated_group_ids(train).numpy()
        self.folds = fold_of_rows(groups, recipe.noise.folds, seed=recipe.run.seed)

    def losses(self, train_fold: TrainFold) -> tuple[Tensor, TrainingResult | None]:
        """Train the models, and judge every pair.

        Args:
            train_fold: trains a model on some rows.

        Returns:
            (n, 2) float32: the loss of each pair, and that of its image with the caption of another group; NaN where
            the image cannot be read. And, where a fold was interrupted, how it ended.
        """
        found = torch.full((len(self._train), 2), torch.nan)
        for fold in range(self._recipe.noise.folds):
            rows = np.flatnonzero(self.folds == fold)
            kept = self._run.path / FOLDER / f"fold_{fold + 1}.safetensors"
            if kept.is_file():
                found[rows] = load_file(kept)["losses"]
                continue
            folder = RunFolder(kept.with_suffix(""), writes=self._run.writes)
            title = f"cross-fitting, fold {fold + 1} of {self._recipe.noise.folds}"
            log.info("%s: a model on %d of %d pairs judges the rest", title, len(found) - len(rows), len(found))
            recipe = self._fold_recipe(folder)
            others = np.flatnonzero(self.folds != fold)
            model, result = train_fold(recipe, others, folder, _FoldDisplay(title, self._progress))
            if result.interrupted:
                return found, result
            found[rows] = broadcast_object(self._judged(model, rows))  # the same to the bit on every process
            if self._run.writes:
                partial = kept.with_name(f".{kept.name}.partial")
                save_file({"losses": found[rows]}, partial)
                partial.replace(kept)
                shutil.rmtree(folder.path)
        return found, None

    def _fold_recipe(self, folder: RunFolder) -> Recipe:
        recipe, share = self._recipe, self._recipe.noise.fold_share
        steps, part = recipe.train.max_steps, share * (1 - 1 / recipe.noise.folds)
        train = {
            "epochs": share * recipe.train.epochs,
            "max_steps": None if steps is None else max(1, math.ceil(part * steps)),
            "doctor": False,
        }
        evaluate = {"tasks": (), "every_steps": NEVER, "every_epochs": None, "early_stopping": None, "at_end": False}
        # A plateau is seen in evaluations.
        schedule = recipe.schedule.model_copy(update={"name": "cosine"} if recipe.schedule.name == "plateau" else {})
        return recipe.model_copy(
            update={
                "schedule": schedule,
                "train": recipe.train.model_copy(update=train),
                "evaluate": recipe.evaluate.model_copy(update=evaluate),
                "noise": type(recipe.noise)(),
                "run": recipe.run.model_copy(update={"dir": str(folder.path), "tracker": "none"}),
            }
        )

    @torch.no_grad()
    def _judged(self, model: DualEncoder, rows: np.ndarray) -> Tensor:
        """(k, 2) losses of the pairs of these rows, and of pairs made wrong."""
        embedder = DualEncoderEmbedder(model.eval(), device=self._device, features=self._cache)
        size = self._recipe.evaluate.batch_size
        # Features are kept for the whole split: a part of it would have them computed anew.
        whole = self._cache is not None and model.image.has_fixed_features
        part = self._train if whole else self._train.select(rows)
        image, readable, _ = embed_images(embedder, part, batch_size=size)
        place = {int(row): number for number, row in enumerate(readable if whole else rows[readable])}
        known = np.array([number for number, row in enumerate(rows) if int(row) in place], dtype=np.int64)
        losses = torch.full((len(rows), 2), torch.nan)
        if not len(known):
            return losses
        image = image[[place[int(row)] for row in rows[known]]].to(self._device)
        text = embedder.encode_text([self._train.texts(int(row))[0] for row in rows[known]], batch_size=size)
        text, groups = text.to(self._device), self._train.group_ids()[torch.from_numpy(rows[known])].to(self._device)
        draw, scale = np.random.default_rng([self._recipe.run.seed, len(rows)]), model.logit_scale.detach()
        for piece in np.array_split(draw.permutation(len(known)), -(-len(known) // CANDIDATES)):
            at = torch.from_numpy(piece).to(self._device)
            others = torch.from_numpy(of_another_group(groups[at].cpu().numpy(), draw)).to(self._device)
            for column, captions in enumerate((text[at], text[at][others])):
                found = pair_losses(image[at], captions, scale.to(self._device), group_ids=groups[at])
                losses[known[piece], column] = found.cpu()
        return losses
