"""What the machine is: cores, memory, graphics memory, and which arithmetic it is quick in."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import torch

GIB = 2**30


@dataclass(frozen=True)
class MachineFacts:
    """What a training can use.

    Attributes:
        cores: processors this process may run on.
        memory_gib: memory that is free now.
        gpu: the GPU's name; None: there is none.
        gpu_memory_gib: of all of it; 0 without one.
        bf16: whether the GPU computes in bf16.
    """

    cores: int
    memory_gib: float
    gpu: str | None
    gpu_memory_gib: float
    bf16: bool

    @property
    def device(self) -> str:
        """``"cuda"`` or ``"cpu"``."""
        return "cpu" if self.gpu is None else "cuda"


def look_at_machine() -> MachineFacts:
    """What this machine has, now.

    Example:
        >>> look_at_machine().cores >= 1
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = psutil.virtual_memory().available / GIB
    if not torch.cuda.is_available():
        return MachineFacts(cores, free, None, 0.0, bf16=False)
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    memory = properties.total_memory / GIB
    return MachineFacts(cores, free, properties.name, memory, bf16=torch.cuda.is_bf16_supported())
