"""Several processes that judge together: started by torchrun or accelerate launch, they share out what is embedded."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from mmcl.data.chunk_files import ALONE, Sharing

# One process may judge while the others, done with it, wait for the next model.
PATIENCE = timedelta(hours=12)


def start_processes() -> bool:
    """Join the processes that ``torchrun`` or ``accelerate launch`` has started; each takes a GPU of its own.

    Embeddings are exchanged on the CPU, so the group is gloo's with and without GPUs. A group that is there stays.

    Returns:
        Whether there are several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        dist.init_process_group("gloo", timeout=PATIENCE)
    return dist.is_initialized() and dist.get_world_size() > 1


def all_processes() -> Sharing:
    """How the processes of this run divide what all of them ask for at once."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    return Sharing(dist.get_rank(), dist.get_world_size(), _gather)


def _gather(value: Any) -> list[Any]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, value)
    return everyone
