"""Starting on one process or many, and noticing when fewer run than were asked for."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration

from mmcl.config import RunSection
from mmcl.errors import ConfigError, require
from mmcl.logs import get_logger

log = get_logger(__name__)

# The main process alone evaluates and computes unshared features; the others wait this long.
PATIENCE = timedelta(hours=12)

_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def start_accelerator(run: RunSection, *, precision: str, folder: Path) -> Accelerator:
    """The run's ``Accelerator``: device, processes, precision and tracker.

    Args:
        run: the recipe's ``run`` section.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        folder: where trackers write.

    Raises:
        ConfigError: the device lacks the precision, or ``run.num_processes`` do not run.
        MissingDependencyError: the tracker is not installed.
    """
    if run.tracker != "none":
        require(run.tracker, extra=run.tracker)
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if many and not torch.cuda.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # without it accelerate looks for a GPU backend
    if not torch.distributed.is_initialized():
        AcceleratorState._reset_state(reset_partial_state=True)  # a second run in one Python process may differ
    try:
        accelerator = Accelerator(
            mixed_precision={"fp32": "no"}.get(precision, precision),
            log_with=None if run.tracker == "none" else run.tracker,
            project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"train.precision is {precision!r} and run.tracker {run.tracker!r}: this machine cannot ({error})"
        ) from error
    if precision == "fp16" and accelerator.device.type == "cpu":  # accelerate would train in fp32 and not say so
        raise ConfigError("train.precision is 'fp16', which needs a GPU; on a CPU use bf16 or fp32")
    if accelerator.distributed_type in _SHARDED:
        raise ConfigError(
            f"accelerate is configured for {accelerator.distributed_type.value}; mmcl trains data-parallel: choose "
            f"multi-GPU or multi-CPU in accelerate config"
        )
    check_processes(run.num_processes, accelerator.num_processes)
    return accelerator


def check_processes(wanted: int | None, running: int) -> None:
    """Say so when fewer processes run than were asked for; every process would otherwise train alone, or one for all.

    Args:
        wanted: ``run.num_processes``; a mismatch stops.
        running: processes of this run.

    Raises:
        ConfigError: ``wanted`` is given and differs.
    """
    mend = (
        "On CPUs use: ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N --num_machines 1 "
        "recipes/train.py ..., or: torchrun --standalone --nproc_per_node N recipes/train.py ..."
    )
    if wanted is not None and wanted != running:
        raise ConfigError(f"run.num_processes is {wanted}, but {running} process(es) run. {mend}")
    asked = processes_asked_of_launcher()
    if asked is not None and asked > running:
        log.warning(
            "accelerate launch was asked for %d processes, but %d runs: negatives come from this process alone. %s",
            asked,
            running,
            mend,
        )


def processes_asked_of_launcher() -> int | None:
    """How many processes the ``accelerate launch`` above this process was asked for; None where there is none.

    The launcher does not tell its child, so its command line and config file are read.
    """
    import psutil

    try:
        parent = psutil.Process().parent()
        arguments = parent.cmdline() if parent is not None else []
    except psutil.Error:
        return None
    # `accelerate launch`, `accelerate-launch` and `python -m accelerate.commands.launch`
    command = " ".join(arguments[:4])
    if "accelerate" not in command or "launch" not in command:
        return None
    for flag in ("--num_processes", "--num-processes"):
        value = _option(arguments, flag)
        if value is not None and value.isdigit():
            return int(value)
    config = _option(arguments, "--config_file") or _default_config()
    try:
        tree: Any = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    asked = tree.get("num_processes") if isinstance(tree, dict) else None
    return asked if isinstance(asked, int) else None


def _option(arguments: list[str], flag: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == flag and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(flag + "="):
            return argument.partition("=")[2]
    return None


def _default_config() -> str:
    from accelerate.commands.config.config_args import default_yaml_config_file

    return default_yaml_config_file
