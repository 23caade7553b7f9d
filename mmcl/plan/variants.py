"""The recipe of a measurement: the planned one with another batch, another folder, or its towers thawed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl.config import Recipe

NEVER = 10**9  # steps


@dataclass(frozen=True)
class Phase:
    """Part of a run in which the same parameters train.

    Attributes:
        from_epoch: where it begins.
        recipe: what trains then, written as a recipe that begins so.
    """

    from_epoch: float
    recipe: Recipe


def phases(recipe: Recipe) -> list[Phase]:
    """The parts of a run, in order: the first as the recipe begins, one more for every epoch at which towers thaw.

    A tower that thaws behind the end of the run makes no phase; one with ``train.max_steps`` may never be reached
    either, which the number of steps of each phase says.
    """
    epochs = {tower.freeze_until_epoch for tower in (recipe.model.image, recipe.model.text)}
    found = [Phase(0.0, recipe)]
    found += [Phase(epoch, _thawed(recipe, epoch)) for epoch in sorted(epochs - {None})]
    return found


def _thawed(recipe: Recipe, epoch: float) -> Recipe:
    towers = {}
    for side in ("image", "text"):
        tower = getattr(recipe.model, side)
        if tower.freeze_until_epoch is not None and tower.freeze_until_epoch <= epoch:
            kept = True if tower.keep_statistics is None else tower.keep_statistics  # as where a tower has thawed
            update = {"freeze": False, "freeze_until_epoch": None, "keep_statistics": kept}
            towers[side] = tower.model_copy(update=update)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=towers)})


def measured_recipe(recipe: Recipe, *, batch_size: int, micro_batch_size: int | str | None, folder: Path) -> Recipe:
    """The recipe that a measurement trains: nothing judged or saved on the way, no tracker, and a folder of its own.

    Args:
        recipe: of a phase.
        batch_size: pairs a step.
        micro_batch_size: see ``train.micro_batch_size``.
        folder: where the run writes, to be thrown away.
    """
    train = {"batch_size": batch_size, "micro_batch_size": micro_batch_size, "max_minutes": None}
    changes: dict[str, Any] = {
        "train": recipe.train.model_copy(update=train),
        "evaluate": recipe.evaluate.model_copy(update={"every_steps": NEVER, "every_epochs": None}),
        "checkpoint": recipe.checkpoint.model_copy(update={"every_steps": None, "every_minutes": None}),
        "run": recipe.run.model_copy(update={"dir": str(folder), "tracker": "none", "num_processes": None}),
    }
    batches = recipe.batches
    if batches.name == "clusters":  # to cluster is to embed all the data with another model
        changes["batches"] = type(batches)()
    elif batches.name == "balanced":
        each = batches.samples_per_class
        classes = max(2, batch_size // each)
        changes["batches"] = batches.model_copy(update={"classes_per_batch": classes})
        changes["train"] = changes["train"].model_copy(update={"batch_size": classes * each})
    return recipe.model_copy(update=changes)
