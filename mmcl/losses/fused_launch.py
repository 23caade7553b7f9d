"""How the fused kernels are started: sizes of blocks, shares of the streamed rows, and smaller blocks where need be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from mmcl.errors import ConfigError
from mmcl.losses import fused_kernels

PRECISIONS = ("ieee", "tf32x3", "tf32")
# A GPU is filled where each of its multiprocessors has several programs. Few held rows give few programs; the streamed
# rows are then shared among more, and their results added up. Shares of gradients cost memory, so fewer are made.
PROGRAMS = {"statistics": 4, "gradients": 2}  # a multiprocessor

Plan = tuple[tuple[int, ...], dict[str, Any]]  # a grid, and arguments that depend on the blocks


class Blocks(NamedTuple):
    """Sizes of a kernel's blocks, powers of two of at least 16.

    Attributes:
        held: rows a program holds.
        streamed: rows of the other side that it takes at a time.
        inner: values of d that a product of logits takes at a time.
        output: values of d whose gradient a program adds up; logits are computed again for each such part of d.
        warps, stages: how Triton runs it.
    """

    held: int
    streamed: int
    inner: int
    output: int
    warps: int
    stages: int


def statistics_blocks(dtype: torch.dtype, precision: str, *, plain: bool) -> list[Blocks]:
    """Sizes for the forward, of which the first that fits the device counts.

    They are chosen by what Triton 3.9 compiles for compute capability 9.0 without spilling registers at d = 512, not
    by measurement.

    Args:
        dtype: of both inputs.
        precision: of products of float32.
        plain: neither groups nor windows, weights or totals are asked for, which need registers too.
    """
    streamed = 128 if plain else 64
    if dtype != torch.float32:
        return [Blocks(128, streamed, 64, 0, 8, 3), Blocks(64, 64, 64, 0, 4, 2), Blocks(32, 32, 32, 0, 4, 1)]
    return [Blocks(64, streamed, 32, 0, 8, 2 if precision == "ieee" else 3), Blocks(32, 32, 32, 0, 4, 1)]


def gradient_blocks(dim: int, dtype: torch.dtype, precision: str, *, plain: bool) -> list[Blocks]:
    """The same for the backward, where a program's sums alone fill up to half of the registers."""
    if dtype != torch.float32:
        first = Blocks(64, 64 if plain else 32, 64, 512, 8, 2)
        sizes = [first, Blocks(64, 32, 32, 256, 8, 2), Blocks(32, 32, 32, 128, 4, 1)]
    elif precision == "ieee":  # without tensor cores both factors of a product stand in registers
        sizes = [Blocks(128, 16, 16, 128, 8, 1), Blocks(32, 16, 16, 128, 4, 1)]
    else:
        sizes = [Blocks(64, 32, 32, 256, 8, 2), Blocks(32, 32, 32, 128, 4, 1)]
    whole = max(16, 1 << (dim - 1).bit_length())
    return [size._replace(output=min(size.output, whole)) for size in sizes]


def float32_precision() -> str:
    """Triton's input precision for products of float32: ``MMCL_FUSED_PRECISION``, or what PyTorch is set to.

    Where ``torch.set_float32_matmul_precision`` was left at "highest" that is "ieee", otherwise "tf32x3".

    Raises:
        ConfigError: there is none of that name.
    """
    default = "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32x3"
    found = os.environ.get("MMCL_FUSED_PRECISION", default)
    if found not in PRECISIONS:
        raise ConfigError(f"MMCL_FUSED_PRECISION is {found!r}; want one of {', '.join(PRECISIONS)}")
    return found


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on any device."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def parts(count: int, size: int) -> int:
    """How many blocks of ``size`` hold ``count``."""
    return -(-count // size)


def shares(kind: str, num_programs: int, num_streamed: int, block: int, device: torch.device) -> tuple[int, int]:
    """How many programs share the streamed rows, and how many rows each takes: whole blocks.

    Args:
        kind: "statistics" or "gradients".
        num_programs: those there are with one share.
        num_streamed: rows to be shared.
        block: rows of a block.
        device: a GPU; elsewhere one share is made.
    """
    if device.type != "cuda" or num_programs == 0:
        return 1, num_streamed
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    num_blocks = parts(num_streamed, block)
    wanted = max(1, min(PROGRAMS[kind] * processors // num_programs, num_blocks))
    size = parts(num_blocks, wanted) * block
    return max(1, parts(num_streamed, size)), size


_too_large: set[tuple[Any, ...]] = set()  # blocks that did not fit, by kernel and device


def run(
    kernel: Any, choices: Sequence[Blocks], device: torch.device, plan: Callable[[Blocks], Plan], constants: dict
) -> dict[str, Any]:
    """Run a kernel with the first blocks that fit the device, and give the arguments planned for them.

    Args:
        kernel: one of ``fused_kernels``.
        choices: blocks, the preferred ones first.
        device: where the tensors are.
        plan: blocks -> grid and the arguments that depend on them, outputs among them.
        constants: arguments that do not.

    Raises:
        RuntimeError: whatever Triton raises where no blocks fit, or the kernel cannot be compiled.
    """
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        for number, blocks in enumerate(choices):
            key = (kernel.__name__, device, blocks, constants["held_ptr"].dtype, constants["dim"])
            if key in _too_large:
                continue
            grid, planned = plan(blocks)
            sizes = {"block_held": blocks.held, "block_streamed": blocks.streamed, "block_inner": blocks.inner}
            if blocks.output:
                sizes["block_output"] = blocks.output
            try:
                if 0 not in grid:
                    kernel[grid](**constants, **planned, **sizes, num_warps=blocks.warps, num_stages=blocks.stages)
            except fused_kernels.triton.OutOfResources:
                if number == len(choices) - 1:
                    raise
                _too_large.add(key)
            else:
                return planned
    raise RuntimeError(f"no blocks of {kernel.__name__} fit {device}")
