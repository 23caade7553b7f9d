"""What every metric here checks of its inputs, once, at its public boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError


def check_finite_rows(name: str, value: Tensor) -> Tensor:
    """A (n, d) floating matrix as float32 on the CPU, known to hold neither NaN nor infinity.

    Args:
        name: the argument's name, for messages.
        value: (n, d), any floating dtype; n and d may be 0.

    Returns:
        (n, d) float32; ``value`` itself where nothing had to change.

    Raises:
        ShapeError: not two axes, not floating, or a row that is not finite (or whose norm overflows float32).

    Example:
        >>> check_finite_rows("scores", torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    if value.ndim != 2:
        raise ShapeError(f"{name} needs two axes (rows, columns), got shape {tuple(value.shape)}")
    if not value.is_floating_point():
        raise ShapeError(f"{name} needs a floating dtype, got {value.dtype}; convert it with .float()")
    value = value.detach().to(device="cpu", dtype=torch.float32)
    # One pass without an (n, d) mask: a row's norm is finite only where all of its entries are.
    bad = ~torch.linalg.vector_norm(value, dim=1).isfinite()
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        raise ShapeError(
            f"{name} row {row} holds NaN, infinity or values too large for float32 ({int(bad.sum())} such rows of "
            f"{len(value)}); a metric of them would mean nothing: look at the model or the file they come from"
        )
    return value


def check_ids(name: str, ids: Tensor, *, length: int, of: str) -> Tensor:
    """(n,) integer ids as int64 on the CPU.

    Args:
        name: the argument's name, for messages.
        ids: (n,) of an integer dtype.
        length: the n that is wanted.
        of: the argument whose rows the ids belong to, for messages.

    Raises:
        ShapeError: not one axis, another length, or not of an integer dtype.

    Example:
        >>> check_ids("groups", torch.tensor([0, 0, 1]), length=3, of="queries")
        tensor([0, 0, 1])
    """
    if ids.ndim != 1 or len(ids) != length:
        raise ShapeError(f"{name} needs shape ({length},), one id a row of {of}, got {tuple(ids.shape)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ShapeError(f"{name} needs an integer dtype, got {ids.dtype}")
    return ids.detach().to(device="cpu", dtype=torch.int64)
