"""Recognising that memory ran out, and giving back what a failed attempt left."""

from __future__ import annotations

import gc

import torch

# CPUs and some CUDA libraries raise no type of their own.
_PHRASES = ("out of memory", "can't allocate memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)


def release_memory() -> None:
    """Give back what a failed attempt left: reference cycles first, then the blocks that CUDA's allocator keeps."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
