"""Sums over all pairs of rows, block of rows by block of rows, so that no (b, b) matrix is ever held."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Pairs in a block. A loss holds several matrices of this size at once; smaller blocks are no faster on a CPU, and a GPU
# needs larger ones to be busy.
BLOCK_PAIRS = {"cpu": 2**20, "cuda": 2**24}

# (block, *tensors) -> (the block's sum (), what it is to be divided by ())
BlockSum = Callable[..., tuple[Tensor, Tensor]]


def row_blocks(rows: int, columns: int, device: torch.device) -> list[slice]:
    """Slices that cover ``rows`` rows, each with few enough for the device when set against ``columns`` columns."""
    height = max(1, BLOCK_PAIRS.get(device.type, BLOCK_PAIRS["cuda"]) // max(1, columns))
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def sum_over_blocks(function: BlockSum, blocks: Sequence[slice], *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Sum ``function(block, *tensors)`` over blocks, keeping the memory of one block alone.

    Of many blocks the gradient is taken block by block while the sum is computed: what is kept for the backward is one
    gradient for every tensor, and no block is computed twice. One block alone takes the usual way through autograd.

    Args:
        function: (block, *tensors) -> (sum, count); sum () depends on the tensors given and on no other that needs a
            gradient; count () has none.
        blocks: slices of rows, as ``row_blocks`` makes them; at least one.
        tensors: what gradients are wanted for.

    Returns:
        The two sums, each ().
    """
    if len(blocks) == 1:
        return function(blocks[0], *tensors)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return _BlockSums.apply(function, blocks, *tensors)
    totals, counts = zip(*(function(block, *tensors) for block in blocks))
    return torch.stack(totals).sum(), torch.stack(counts).sum()


class _BlockSums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, function: BlockSum, blocks: Sequence[slice], *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        needed = ctx.needs_input_grad[2:]
        leaves = [tensor.detach().requires_grad_(need) for tensor, need in zip(tensors, needed)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        gradients = [torch.zeros_like(leaf) for leaf in wanted]
        totals, counts = [], []
        for block in blocks:
            with torch.enable_grad():
                total, count = function(block, *leaves)
            for gradient, part in zip(gradients, torch.autograd.grad(total, wanted, materialize_grads=True)):
                gradient += part
            totals.append(total.detach())
            counts.append(count)
        ctx.save_for_backward(*gradients)
        ctx.needed = needed
        count = torch.stack(counts).sum()
        ctx.mark_non_differentiable(count)
        return torch.stack(totals).sum(), count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = iter(ctx.saved_tensors)
        return None, None, *(total * next(gradients) if need else None for need in ctx.needed)
