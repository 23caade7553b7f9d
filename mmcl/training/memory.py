"""What fits into memory, measured before it runs out."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmcl.batch import Batch, Embeddings
from mmcl.memory import release_memory
from mmcl.training.gather import world_size

# A system that promises more memory than it has kills a process instead of raising an error. So on a CPU what a few
# rows keep is measured, and only part of what is free is planned with.
PROBE_ROWS = 16
SPARE_SHARE = 0.2  # of the free memory, left to the data, the loss and other programs
BACKWARD_FACTOR = 2.0  # peak of a backward pass over what the forward pass keeps; recomputed layers count here, too


def free_bytes() -> int:
    """Memory that this process may still take: of the machine or of its control group, shared with its neighbours."""
    import psutil

    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no control group, or no limit ("max")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
        reclaimable = next((int(number) for name, number in lines if name == "inactive_file"), 0)
        free = min(free, limit - used + reclaimable)
    return max(0, free) // int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def bytes_a_row(embed: Callable[[Batch], Embeddings], batch: Batch) -> float:
    """What a forward pass keeps for its backward pass, for each row: by how much more rows keep more.

    Tensors kept by autograd are counted; where towers recompute activations they are not handed to it, and the growth
    of the process counts instead, if that is more.

    Args:
        embed: runs the encoders.
        batch: a few rows of it are tried.
    """
    few, more = batch.split(PROBE_ROWS // 2)[0], batch.split(PROBE_ROWS)[0]
    with torch.enable_grad():
        embed(batch.split(PROBE_ROWS // 4)[0])  # what is allocated once, by the first pass, is not a row's
        held, few_bytes, few_growth = _forward(embed, few)  # held, so that its memory is not taken again
        if len(more) == len(few):
            return max(few_bytes, few_growth) / len(few)
        _, more_bytes, more_growth = _forward(embed, more)
    del held
    return max(more_bytes - few_bytes, more_growth - few_growth) / (len(more) - len(few))


def _forward(embed: Callable[[Batch], Embeddings], batch: Batch) -> tuple[Embeddings, int, int]:
    """Embeddings, bytes kept for their backward pass, and growth of the process."""
    import psutil

    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    process = psutil.Process()
    before = process.memory_info().rss
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        embeddings = embed(batch)
    return embeddings, sum(kept.values()), process.memory_info().rss - before


def rows_that_fit(embed: Callable[[Batch], Embeddings], batch: Batch, *, reserved: int) -> int:
    """How many rows of this kind the CPU's free memory lets through the encoders at once; at least 1.

    Args:
        embed: runs the encoders.
        batch: a few rows of it are tried.
        reserved: bytes that are still to be allocated for other things.
    """
    each = BACKWARD_FACTOR * bytes_a_row(embed, batch)
    release_memory()
    return max(1, int(((1 - SPARE_SHARE) * free_bytes() - reserved) // max(1.0, each)))
