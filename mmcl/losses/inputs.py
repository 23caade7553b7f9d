"""Inputs of losses of pairs, triplets, views and sets: rows widened and checked, targets read, names looked up."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.losses.arguments import check_rows
from mmcl.losses.tiles import computing_dtype


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors in the dtype a loss is computed in: float64 where all are float64, float32 otherwise."""
    dtype = computing_dtype(*tensors)
    return tuple(tensor.to(dtype) for tensor in tensors)


def check_matrix(name: str, rows: Tensor, *, dim: int | None = None, least: int = 1) -> None:
    """Refuse what is no (n, d) with n >= ``least``, or has another d than ``dim``.

    Raises:
        ShapeError: it is none.
    """
    if rows.ndim != 2 or (dim is not None and rows.shape[1] != dim):
        raise ShapeError(f"{name} needs shape (n, {'d' if dim is None else dim}), got {tuple(rows.shape)}")
    if len(rows) == 0:
        raise ShapeError(f"{name} holds no rows; a loss over an empty batch has no value")
    if len(rows) < least:
        raise ShapeError(f"{name} holds one row; this loss is about how rows differ and needs {least} or more")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuse a name that is not among the choices.

    Raises:
        ConfigError: it is not; names the nearest.
    """
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name} is {value!r}; want one of {', '.join(sorted(choices))}{hint}")


def check_positive(name: str, value: float) -> None:
    """Refuse a plain number that is not positive and finite.

    Raises:
        ShapeError: it is not.
    """
    if not 0 < value < math.inf:
        raise ShapeError(f"{name} is {value}; want a finite number > 0")


def similar_pairs(targets: Tensor | None, x: Tensor) -> Tensor:
    """(b,) bool: which of the pairs of x are similar.

    Args:
        targets: (b,) bool, or numbers that are all 0 or 1; None for all similar.
        x: (b, d) one side of the pairs.

    Raises:
        ShapeError: another shape, or another value.
    """
    if targets is None:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    check_rows("targets", targets, len(x))
    if targets.dtype != torch.bool and not bool(((targets == 0) | (targets == 1)).all()):
        raise ShapeError(f"targets hold {targets[(targets != 0) & (targets != 1)][0].item()}; want 0, 1 or booleans")
    return targets.bool()


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of one loss a pair, in proportion to the weights; 0 where all weights are 0.

    Args:
        losses: (b,).
        weights: (b,) >= 0, or None for equal ones.

    Raises:
        ShapeError: another shape, or a weight that is negative or not finite.
    """
    if weights is None:
        return losses.mean()
    check_rows("weights", weights, len(losses))
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ShapeError(f"weights hold {weights.min().item()} to {weights.max().item()}; want finite numbers >= 0")
    weights = weights.to(losses.dtype)
    total = weights.sum()
    return (weights * losses).sum() / torch.where(total > 0, total, 1.0)
