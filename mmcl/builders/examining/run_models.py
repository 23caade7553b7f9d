"""A run's models: as it was before the first step, and as it stands."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmcl.builders.examining.attempts import reason
from mmcl.builders.examining.run_files import MISSING, newest_checkpoint
from mmcl.builders.starting_models import build_starting_model
from mmcl.builders.training import VOCABULARY_ROWS
from mmcl.config import Recipe
from mmcl.data.dataset import ImageTextDataset
from mmcl.doctor.examination.subject import Damage
from mmcl.errors import ConfigError, MissingDependencyError
from mmcl.models.adapters.lora import attach_lora
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.freezing import apply_freezing
from mmcl.models.saving import from_pretrained
from mmcl.training.checkpoint import WEIGHTS
from mmcl.training.runs import MODEL


def starting_model(recipe: Recipe, train: ImageTextDataset) -> DualEncoder:
    """The model as ``train`` builds it, with the same weights, frozen as the recipe says.

    Args:
        recipe: what was run.
        train: the training split; a tiny text tower makes its vocabulary of its captions.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.run.seed)
        model = build_starting_model(recipe, captions=_captions(train))
        attach_lora(model, recipe.model)
    apply_freezing(model, recipe.model)
    return model


def _captions(train: ImageTextDataset) -> Iterator[str]:
    for texts in train.table["texts"].slice(0, VOCABULARY_ROWS).to_pylist():
        yield from texts


def kept_model(folder: Path) -> tuple[DualEncoder | None, Damage | None]:
    """The model that a run keeps, and what is wrong with its folder where it cannot be opened.

    Args:
        folder: of the run; without a model yet, both are None.

    Raises:
        MissingDependencyError: a library that the model needs is not there: no fault of its files.
    """
    if not (folder / MODEL).is_dir():
        return None, None
    try:
        return from_pretrained(folder / MODEL), None
    except MissingDependencyError:
        raise
    # Whatever a library says of files that are not what their names say.
    except Exception as error:
        why = reason(error) if str(error) else MISSING
        return None, Damage(MODEL, f"files that cannot be opened ({why})", "a model that mmcl wrote")


def checkpoint_model(folder: Path, start: DualEncoder | None) -> DualEncoder | None:
    """The model of the newest checkpoint; None where there is none, or it fits the recipe's model no more.

    Args:
        folder: of the run.
        start: as the run began.

    Raises:
        SafetensorError: its weights are damaged.
    """
    checkpoint = newest_checkpoint(folder)
    if start is None or checkpoint is None or not (checkpoint / WEIGHTS).is_file():
        return None
    state = load_file(checkpoint / WEIGHTS)
    weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    own = start.state_dict()
    if own.keys() != weights.keys() or any(own[name].shape != value.shape for name, value in weights.items()):
        return None
    return _copy_with(start, weights)


def _copy_with(start: DualEncoder, weights: dict[str, Tensor]) -> DualEncoder:
    model = copy.deepcopy(start)
    model.load_state_dict(weights)
    return model.eval()


def standard_normalization(model: DualEncoder) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation that timm gives for an image tower; None: its library gives none beside its files.

    They are those of timm's list, and not of the model as it was built, which options may have changed. Transformers'
    own figures are those of a kind of model and not of its weights: DINO's differ from other ViTs'.
    """
    spec = model.image.tower.spec
    if spec.get("family") != "timm":
        return None
    import timm

    known = timm.get_pretrained_cfg(spec["name"])
    return None if known is None else (tuple(known.mean), tuple(known.std))


def no_model(folder: Path) -> ConfigError:
    """That a run has neither a checkpoint nor a model."""
    return ConfigError(f"{folder} holds neither a checkpoint nor a model yet")
