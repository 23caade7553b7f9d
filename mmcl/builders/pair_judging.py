"""Pairs judged before a training, and listed behind it."""

from __future__ import annotations

import numpy as np
import torch

from mmcl.builders.cross_fitting import caption_donors
from mmcl.config import Recipe
from mmcl.data.caption_groups import first_caption_ids, stated_group_ids
from mmcl.data.dataset import ImageTextDataset
from mmcl.logs import get_logger
from mmcl.noise.beforehand import FIT_TO_JUDGE
from mmcl.noise.claims import Claims
from mmcl.noise.listing import FILE as SUSPICIOUS_PAIRS
from mmcl.noise.listing import write_suspicious_pairs
from mmcl.noise.trust import TRUSTED, PairTrust
from mmcl.training.runs import RunFolder

log = get_logger(__name__)


def claims_of(train: ImageTextDataset) -> Claims:
    """What the pairs of a split claim: a caption, of all images of a stated group or of one image."""
    return Claims(stated_group_ids(train), first_caption_ids(train))


def judged_donors(recipe: Recipe, trust: PairTrust, train: ImageTextDataset, losses: torch.Tensor) -> np.ndarray:
    """Judge the pairs, and say whose caption each row is to have: a trusted one of its group where its own is left out.

    Args:
        recipe: what is run.
        trust: judges, and keeps what it found.
        train: the training split, of n rows.
        losses: (n, 2) float32, of each pair and of its image with the caption of another group; see ``CrossFit``.

    Returns:
        (n,) int64, rows; each its own where the models of the folds can tell nothing.
    """
    fitness, rows = trust.judge(*losses.unbind(1)), np.arange(len(train))
    if fitness < FIT_TO_JUDGE:
        log.warning(
            "noise.method=cross_fit does nothing: the models of the folds tell %.0f %% of the pairs from pairs made "
            "wrong, and half would be chance; raise noise.fold_share or train.epochs, or make them learn first",
            100 * fitness,
        )
        return rows
    donors = caption_donors(trust, stated_group_ids(train).numpy()) if recipe.noise.repair else rows
    log.info(
        "cross-fitting: %d of %d pairs look wrong; %d are left out, and %d of these come back with a caption of their "
        "group",
        int((trust.clean < TRUSTED).sum()), len(train), int((trust.weights == 0).sum()), int((donors != rows).sum()),
    )  # fmt: skip
    return donors


def list_suspicious_pairs(run: RunFolder, trust: PairTrust | None, train: ImageTextDataset) -> None:
    """Write ``suspicious_pairs.csv`` into the run folder, and say how many there are.

    Args:
        run: the run folder.
        trust: that has judged the pairs; None: nothing is written.
        train: the training split, as it was given.
    """
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
