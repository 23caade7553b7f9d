"""Checkpoints: everything resume needs, written whole or not at all. Tensors only; no object is unpickled."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.errors import ConfigError

LAST, BEST = "last", "best_by_schedule"
ADAPTERS = "adapters"  # beside the model
WEIGHTS, STATES, RANDOM, PROGRESS = "weights.safetensors", "states.pt", "random.pt", "progress.json"


@dataclass
class Checkpoint:
    """The state of a training.

    Attributes:
        progress: plain numbers: step, epoch, batch, best metric and so on.
        weights: the objective's state dict.
        states: further states by name (optimizer, schedule, ema ...): tensors and plain values.
        random: RNG state of each process, in rank order.
    """

    progress: dict[str, Any]
    weights: dict[str, Tensor]
    states: dict[str, dict[str, Any]]
    random: list[dict[str, Tensor]]


def random_state() -> dict[str, Tensor]:
    """This process's torch generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Bring this process's torch generators back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _name(step: int) -> str:
    return f"step_{step:08d}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write ``folder/step_N``, point ``folder/last`` at it, and remove all but the newest ``keep``.

    The files are written beside, synchronised to disk and moved into place by one rename: a kill at any moment leaves
    a whole checkpoint, this one or the one before.

    Args:
        folder: the run's checkpoints.
        checkpoint: what to write; ``progress["step"]`` names it.
        keep: how many stay.

    Returns:
        The checkpoint's folder.
    """
    target = folder / _name(checkpoint.progress["step"])
    for stale in folder.glob(".step_*.partial"):  # of a run that was killed while it wrote
        shutil.rmtree(stale)
    partial = folder / f".{target.name}.partial"
    partial.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.weights.items()}
    save_file(weights, partial / WEIGHTS)
    torch.save(checkpoint.states, partial / STATES)
    torch.save(checkpoint.random, partial / RANDOM)
    (partial / PROGRESS).write_text(json.dumps(checkpoint.progress, indent=2))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    replace_folder(partial, target)
    link = folder / f".{LAST}.partial"
    link.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # a file system without links: the newest is found by its number
        link.symlink_to(target.name)
        os.replace(link, folder / LAST)
    for old in complete_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def replace_folder(new: Path, folder: Path) -> None:
    """Move ``new`` to where ``folder`` may be; a kill in between is mended by ``mend_folder``."""
    aside = folder.with_name(f".{folder.name}.old")
    mend_folder(folder)
    if folder.exists():
        os.replace(folder, aside)
    os.replace(new, folder)
    shutil.rmtree(aside, ignore_errors=True)


def mend_folder(folder: Path) -> None:
    """Put back what ``replace_folder`` had set aside when it was killed between its two renames."""
    aside = folder.with_name(f".{folder.name}.old")
    if not aside.exists():
        return
    if folder.exists():
        shutil.rmtree(aside)
    else:
        os.replace(aside, folder)


def mend_run(checkpoints: Path, model: Path) -> None:
    """Put back whatever folder of a run was being replaced when it was killed: a checkpoint, the model, adapters."""
    for parent in (model.parent, checkpoints):
        for aside in parent.glob(".*.old"):
            mend_folder(parent / aside.name.removeprefix(".").removesuffix(".old"))


def set_best_aside(checkpoints: Path, model: Path) -> None:
    """Keep the best model and its adapters beside the checkpoints: a judgement out of turn may replace them."""
    aside = checkpoints / BEST
    shutil.rmtree(aside, ignore_errors=True)
    for folder in (model, model.with_name(ADAPTERS)):
        if folder.exists():
            shutil.copytree(folder, aside / folder.name)


def forget_best_aside(checkpoints: Path) -> None:
    """Nothing has replaced the best model."""
    shutil.rmtree(checkpoints / BEST, ignore_errors=True)


def put_best_back(checkpoints: Path, model: Path) -> None:
    """What ``set_best_aside`` kept, in its place again; a run that goes on is as one that was never stopped."""
    for folder in (model, model.with_name(ADAPTERS)):
        kept = checkpoints / BEST / folder.name
        if kept.exists():
            replace_folder(kept, folder)
    forget_best_aside(checkpoints)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step_*") if (path / PROGRESS).exists())


def has_checkpoint(folder: Path) -> bool:
    """Whether there is one to go on from."""
    return bool(complete_checkpoints(folder)) or any(folder.glob(".step_*.old"))


def read_checkpoint(folder: Path) -> Checkpoint:
    """The newest complete checkpoint of a run.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    complete = complete_checkpoints(folder)
    if not complete:
        raise ConfigError(f"--resume: {folder} holds no complete checkpoint; delete the run folder and start again")
    last = complete[-1]
    try:
        return Checkpoint(
            progress=json.loads((last / PROGRESS).read_text()),
            weights=load_file(last / WEIGHTS),
            states=torch.load(last / STATES, weights_only=True, map_location="cpu"),
            random=torch.load(last / RANDOM, weights_only=True, map_location="cpu"),
        )
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError, UnpicklingError) as error:
        raise ConfigError(f"--resume: {last} is damaged ({error}); remove it and resume from the one before") from error
