"""Trainings of seconds: tiny towers on drawn scenes, in this process or in forked ones that may be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmcl.build import TrainingRun, train
from mmcl.config import Recipe, load_recipe
from mmcl.training.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]
TOWER = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}"
RECIPE = Path(__file__).with_name("small.yaml")


def small_recipe(folder: Path, *overrides: str) -> Recipe:
    """``small.yaml``; the run folder is ``folder``."""
    return load_recipe(RECIPE, [f"run.dir={folder}", *overrides])


def small_run(folder: Path, *overrides: str, resume: bool = False, display: Any = None) -> TrainingRun:
    """Train ``small_recipe`` in this process."""
    return train(small_recipe(folder, *overrides), resume=resume, display=display)


class AtStep:
    """A display that does something behind one step."""

    def __init__(self, step: int, action: Callable[[], object]) -> None:
        self._step, self._action = step, action

    def step(self, record: dict[str, Any], *, total_steps: int) -> None:
        if record["step"] == self._step:
            self._action()

    def evaluation(self, metrics: dict[str, Any], *, step: int) -> None:
        pass


def step_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that steps wrote."""
    return [record for record in metric_records(folder) if "loss" in record]


def metric_records(folder: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def final_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a run's newest checkpoint."""
    return load_file(folder / "checkpoints" / "last" / "weights.safetensors")


def final_state(folder: Path) -> dict[str, Any]:
    """All tensors and numbers of a run's newest checkpoint, flat, without its clock."""
    checkpoint = read_checkpoint(folder / "checkpoints")
    clock = ("seconds", "train_seconds")
    progress = {key: value for key, value in checkpoint.progress.items() if key not in clock}
    tree = {"progress": progress, "weights": checkpoint.weights, "states": checkpoint.states}
    return dict(_leaves("", {**tree, "random": checkpoint.random}))


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in _leaves(f"{prefix}/{key}", child)]
    if isinstance(value, (list, tuple)):
        return [leaf for key, child in enumerate(value) for leaf in _leaves(f"{prefix}/{key}", child)]
    return [(prefix, value)]


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of values that are not equal, bit for bit."""
    names = sorted(one.keys() ^ other.keys())
    for name in one.keys() & other.keys():
        a, b = one[name], other[name]
        same = torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        if not same:
            names.append(name)
    return names


def in_child(function: Callable[..., Any], *arguments: Any, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Call a function in a forked process: its exit code (negative: the signal that killed it) and what it wrote."""
    return in_children(function, *arguments, envs=[env or {}])[0]


def in_children(
    function: Callable[..., Any], *arguments: Any, envs: Sequence[dict[str, str]], timeout: float = 120
) -> list[tuple[int, str]]:
    """``in_child`` for several processes at once, each with its own additions to the environment."""
    context = multiprocessing.get_context("fork")  # nothing is imported again, so a child costs no seconds
    folder = tempfile.mkdtemp()
    outputs = [Path(folder) / f"{number}.log" for number in range(len(envs))]
    children = []
    for env, output in zip(envs, outputs):
        child = context.Process(target=_child, args=(function, arguments, env, output))
        child.start()
        children.append(child)
    results = []
    for child, output in zip(children, outputs):
        child.join(timeout)
        if child.is_alive():
            child.kill()
            child.join()
        results.append((child.exitcode, output.read_text()))
    shutil.rmtree(folder)
    return results


def _child(function: Callable[..., Any], arguments: tuple[Any, ...], env: dict[str, str], output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    # pytest has put its own objects in place of these.
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.environ.update(env)
    try:
        function(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def rank_envs(world_size: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "ACCELERATE_USE_CPU": "true",
        }
        for rank in range(world_size)
    ]


def train_script(*arguments: str) -> None:
    """``recipes/train.py`` with these arguments, in this process."""
    script = str(ROOT / "recipes" / "train.py")
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def script_arguments(folder: Path, *overrides: str) -> list[str]:
    """The command line of ``small_recipe``."""
    return ["--config", str(RECIPE), f"run.dir={folder}", *overrides]
