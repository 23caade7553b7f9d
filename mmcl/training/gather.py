"""Embeddings of all processes on every process, with gradient, whatever number of rows each brings."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from mmcl.batch import Embeddings

T = TypeVar("T")


def world_size() -> int:
    """Processes in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_integers(values: list[int], device: torch.device) -> list[list[int]]:
    """A few integers of every process, in rank order."""
    if world_size() == 1:
        return [values]
    own = torch.tensor(values, dtype=torch.int64, device=device)
    everyone = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(everyone, own)
    return [part.tolist() for part in everyone]


def gather_objects(value: T) -> list[T]:
    """A Python value of every process, in rank order; slow, for what is rare."""
    if world_size() == 1:
        return [value]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def broadcast_object(value: T) -> T:
    """The main process's value, on every process."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _gather_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Rows of every process, concatenated in rank order; no gradient. Shorter parts are padded on the way."""
    longest = max(sizes)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes)])


class _GatherWithGradient(torch.autograd.Function):
    """all_gather forward; backward sums over processes what each wants of this process's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:
        ctx.sizes = sizes
        return _gather_rows(rows.contiguous(), sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may hand it to others too
        dist.all_reduce(gradient)
        start = sum(ctx.sizes[: rank()])
        return gradient[start : start + ctx.sizes[rank()]], None


def gather_embeddings(embeddings: Embeddings, sizes: list[int]) -> Embeddings:
    """Give a batch's embeddings their companions from the other processes.

    The gather's backward sums over processes; with the Trainer's weight ``world * b_local / b_global`` on each
    process's loss and data-parallel averaging, all gradients equal one process on the concatenated batch.

    Args:
        embeddings: this process's, b_r rows.
        sizes: b_r of every process.

    Returns:
        The same with ``gathered`` and ``offset`` set; unchanged on one process.
    """
    if world_size() == 1:
        return embeddings
    embeddings.gathered = Embeddings(
        image=_GatherWithGradient.apply(embeddings.image, sizes),
        text=_GatherWithGradient.apply(embeddings.text, sizes),
        group_ids=_gather_rows(embeddings.group_ids, sizes),
        logit_scale=embeddings.logit_scale,
        logit_bias=embeddings.logit_bias,
    )
    embeddings.offset = sum(sizes[: rank()])
    return embeddings
