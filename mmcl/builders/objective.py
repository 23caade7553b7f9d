"""`build_objective`: what a recipe's loss, negatives, noise and mixup make of a model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch

from mmcl.builders.pair_judging import claims_of
from mmcl.config import LossSection, Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.losses.barlow_twins import barlow_twins
from mmcl.losses.dcl import dcl
from mmcl.losses.info_nce import info_nce
from mmcl.losses.nt_xent import nt_xent
from mmcl.losses.sigmoid import sigmoid
from mmcl.losses.triplet import triplet
from mmcl.losses.vicreg import vicreg
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.heads import num_members
from mmcl.negatives.hardness import HardnessSchedule
from mmcl.noise.feature_mixup import FeatureMixup
from mmcl.noise.trust import PairTrust
from mmcl.objectives.image_text import ImageTextObjective
from mmcl.objectives.kept_structure import KeptStructure
from mmcl.objectives.member_losses import on_members
from mmcl.objectives.whole_batch import PairLoss, on_whole_batch

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
        trust=PairTrust(recipe.noise, claims_of(train)) if judged else None,
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
