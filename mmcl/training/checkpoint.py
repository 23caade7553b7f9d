"""Checkpoints: everything resume needs, written whole or not at all. Tensors only; no object is unpickled."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.logs import get_logger

log = get_logger(__name__)

LAST = "last"


@dataclass
class Checkpoint:
    """The state of a training.

    Attributes:
        progress: plain numbers: step, epoch, batch, best metric and so on.
        weights: the objective's state dict.
        optimizer: the optimizer's state dict.
        extra: further states by name (scheduler, scaler, ema): tensors and plain values.
        random: RNG state of each process, in rank order.
    """

    progress: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    extra: dict[str, Any]
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
    the earlier checkpoint whole.

    Args:
        folder: the run's checkpoints.
        checkpoint: what to write; ``progress["step"]`` names it.
        keep: how many stay.

    Returns:
        The checkpoint's folder.
    """
    target = folder / _name(checkpoint.progress["step"])
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.weights.items()}
    save_file(weights, partial / "weights.safetensors")
    torch.save(checkpoint.optimizer, partial / "optimizer.pt")
    torch.save(checkpoint.extra, partial / "extra.pt")
    torch.save(checkpoint.random, partial / "random.pt")
    (partial / "progress.json").write_text(json.dumps(checkpoint.progress, indent=2))
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    link = folder / f".{LAST}.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, folder / LAST)
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return target


def read_checkpoint(folder: Path) -> Checkpoint:
    """The newest complete checkpoint of a run.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    last = folder / LAST
    if not last.exists():
        raise ConfigError(f"--resume: {folder} holds no complete checkpoint; delete the run folder and start again")
    try:
        return Checkpoint(
            progress=json.loads((last / "progress.json").read_text()),
            weights=load_file(last / "weights.safetensors"),
            optimizer=torch.load(last / "optimizer.pt", weights_only=True, map_location="cpu"),
            extra=torch.load(last / "extra.pt", weights_only=True, map_location="cpu"),
            random=torch.load(last / "random.pt", weights_only=True, map_location="cpu"),
        )
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise ConfigError(f"--resume: {last.resolve()} is damaged ({error}); remove it and resume again") from error
