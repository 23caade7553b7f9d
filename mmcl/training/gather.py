"""What processes tell one another: embeddings with gradient, whatever number of rows each brings; gradients; words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mmcl.batch import CONSTANT_OF_ROWS, Embeddings

T = TypeVar("T")

BUCKET_BYTES = 64 * 2**20  # of gradients in one message


def world_size() -> int:
    """Processes in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def process_weight(sizes: list[int]) -> float:
    """The factor on this process's loss, the mean over its rows, for the mean over processes to be that over all rows.

    Args:
        sizes: rows of every process.
    """
    return world_size() * sizes[rank()] / sum(sizes)


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
        embeddings: this process's, b_r rows, and any number of hard negatives, which need not be as many elsewhere.
        sizes: b_r of every process.

    Returns:
        The same with ``gathered`` and ``offset`` set; unchanged on one process. A process without hard negatives gets
        none of its own, but a part in the gradient of the others'.
    """
    if world_size() == 1:
        return embeddings
    embeddings.gathered = Embeddings(
        image=_GatherWithGradient.apply(embeddings.image, sizes),
        text=_GatherWithGradient.apply(embeddings.text, sizes),
        logit_scale=embeddings.logit_scale,
        logit_bias=embeddings.logit_bias,
        **{
            name: _gather_rows(values, sizes)
            for name in CONSTANT_OF_ROWS
            if (values := getattr(embeddings, name)) is not None
        },
        **_gather_negatives(embeddings),
    )
    embeddings.offset = sum(sizes[: rank()])
    return embeddings


def _gather_negatives(embeddings: Embeddings) -> dict[str, Tensor]:
    """The fields of hard negatives, of those kinds that any process has."""
    names, likes = ("negative_text", "negative_image"), (embeddings.text, embeddings.image)
    own = [0 if getattr(embeddings, name) is None else len(getattr(embeddings, name)) for name in names]
    everyone = gather_integers(own, embeddings.image.device)
    gathered = {}
    for name, like, sizes in zip(names, likes, map(list, zip(*everyone))):
        if not any(sizes):
            continue
        rows, groups = getattr(embeddings, name), getattr(embeddings, f"{name}_groups")
        if rows is None:  # every process must take part in the backward, too
            rows = like.new_zeros((0, like.shape[1]), requires_grad=like.requires_grad)
            groups = embeddings.group_ids[:0]
        gathered[name] = _GatherWithGradient.apply(rows, sizes)
        gathered[f"{name}_groups"] = _gather_rows(groups, sizes)
    return gathered


def broadcast_state(module: nn.Module) -> None:
    """The main process's weights and buffers, on every process."""
    if world_size() == 1:
        return
    for tensor in module.state_dict().values():
        whole = tensor.contiguous()  # collectives take no other layout
        dist.broadcast(whole, src=0)
        if whole is not tensor:
            tensor.copy_(whole)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; one that a process lacks counts as zero there.

    Parameters without a gradient on any process keep none.
    """
    if world_size() == 1 or not parameters:
        return
    device = parameters[0].device
    has = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
    dist.all_reduce(has, op=dist.ReduceOp.MAX)
    used = [p for p, number in zip(parameters, has.tolist()) if number]
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets([p.grad for p in used]):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, part in zip(bucket, flat.split([gradient.numel() for gradient in bucket])):
            gradient.copy_(part.view_as(gradient))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one dtype, up to ``BUCKET_BYTES`` together: one message each."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > BUCKET_BYTES):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
