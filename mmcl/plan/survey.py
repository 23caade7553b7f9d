"""What is known of a training before a step: its parameters, its data, its batches."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmcl.builders.batches import build_batches
from mmcl.builders.objective import LOSSES_OF_PAIRS_ALONE
from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.training_splits import Splits
from mmcl.models.dual_encoder import DualEncoder
from mmcl.plan.stand_in_features import StandInFeatures
from mmcl.training.loading import number_of_workers
from mmcl.training.trainer import Trainer


def survey(
    planned: Recipe, recipe: Recipe, splits: Splits, trainer: Trainer, *, cache: StandInFeatures | None
) -> dict[str, Any]:
    """Facts of a training that is built.

    Args:
        planned: the recipe as it would run.
        recipe: the measurement's.
        splits: all rows.
        trainer: built of the measurement's recipe.
        cache: features; None: towers always run.

    Returns:
        ``parameters`` (one entry a part: ``name``, ``total``, ``trained``, ``cached``), ``data`` and ``workers``.
    """
    model = trainer.objective.model
    section = planned.data
    workers = number_of_workers(section.workers, device=trainer.accelerator.device, is_cheap=trainer.reader.is_cheap)
    return {
        "parameters": _parameters(model, cached=cache is not None),
        "data": _data(planned, recipe, splits, model),
        "workers": workers,
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0") or 0),
    }


def _parameters(model: DualEncoder, *, cached: bool) -> list[dict[str, Any]]:
    def entry(name: str, parameters: list[Any], *, kept: bool = False) -> dict[str, Any]:
        total = sum(parameter.numel() for parameter in parameters)
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return {"name": name, "total": total, "trained": trained, "cached": kept}

    entries, counted = [], set()
    for encoder in (model.image, model.text):
        tower = list(encoder.tower.parameters())
        entries.append(entry(f"{encoder.modality} tower", tower, kept=cached and encoder.has_fixed_features))
        mine = {id(parameter) for parameter in tower}
        rest = [parameter for parameter in encoder.parameters() if id(parameter) not in mine]
        entries.append(entry(f"{encoder.modality} head", rest))
        counted |= {id(parameter) for parameter in encoder.parameters()}
    entries.append(entry("scale and bias", [p for p in model.parameters() if id(p) not in counted]))
    return entries


def _data(planned: Recipe, recipe: Recipe, splits: Splits, model: DualEncoder) -> dict[str, Any]:
    train = splits.train
    whole = planned.model_copy(update={"batches": recipe.batches}) if planned.batches.name == "clusters" else planned
    batches = len(build_batches(whole, train, model))
    lengths = pc.list_value_length(train.table["texts"])
    named = {} if splits.validation is None else {"validation": splits.validation}
    named |= dict(splits.test)
    return {
        "train": len(train),
        "judged": {name: len(dataset) for name, dataset in named.items()},
        "captions_a_row": float(pc.mean(lengths).as_py() or 0.0),
        "batches_per_epoch": batches,
        "repeated_captions": repeated_captions(planned, train),
        "repeated_share": _repeated_share(planned, train),
    }


def repeated_captions(recipe: Recipe, train: ImageTextDataset) -> float:
    """The share of a batch's rows that meet, on average, another row with the same caption taken for a negative.

    Rows of one group are positives of one another where ``loss.positives`` is ``group``, and count only where it is
    not; batches that keep twins apart have none. A row with c - 1 such twins among n - 1 others meets one in a batch of
    b with probability 1 - (1 - (c - 1) / (n - 1))^(b - 1).
    """
    rows, size = len(train), min(recipe.train.batch_size, len(train))
    twins = _twins(recipe, train)
    if rows < 2 or twins is None:
        return 0.0
    return float(np.mean(1.0 - (1.0 - twins / (rows - 1)) ** (size - 1)))


def _repeated_share(recipe: Recipe, train: ImageTextDataset) -> float:
    twins = _twins(recipe, train)
    return 0.0 if twins is None or not len(twins) else float(np.mean(twins > 0))


def _twins(recipe: Recipe, train: ImageTextDataset) -> np.ndarray | None:
    """(n,) how many other rows have a row's first caption and count as its negatives; None: batches keep them apart."""
    if recipe.batches.name == "unique_groups":
        return None
    firsts = pc.list_element(train.table["texts"], 0).combine_chunks().dictionary_encode()
    caption = firsts.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    same = np.bincount(caption)[caption] - 1
    if recipe.loss.positives != "group" or recipe.loss.name in LOSSES_OF_PAIRS_ALONE:
        return same
    groups = train.group_ids().numpy()
    both = np.unique(caption * (int(groups.max(initial=0)) + 1) + groups, return_inverse=True)[1]
    return same - (np.bincount(both)[both] - 1)
