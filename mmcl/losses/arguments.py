"""Arguments of the losses: checked, widened and read, once for all of them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection

import torch
from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.errors import ConfigError, ShapeError
from mmcl.losses.tiles import computing_dtype


def check_pair(first: Tensor, second: Tensor, *, names: tuple[str, str] = ("image", "text")) -> None:
    """Refuse two batches of embeddings that are no pairs.

    Raises:
        ShapeError: they are not (b, d) and equal in shape, or hold no rows.
    """
    one, other = names
    if first.ndim != 2 or first.shape != second.shape:
        raise ShapeError(
            f"{one} and {other} need equal shapes (b, d), got {tuple(first.shape)} and {tuple(second.shape)}; "
            f"pair the batch first"
        )
    if len(first) == 0:
        raise ShapeError(f"{one} and {other} hold no rows; a loss over an empty batch has no value")


def check_rows(name: str, values: Tensor | None, count: int) -> None:
    """Refuse a vector that has not one value a row; None passes.

    Raises:
        ShapeError: another shape.
    """
    if values is not None and values.shape != (count,):
        raise ShapeError(f"{name} need shape ({count},), got {tuple(values.shape)}")


def check_range(name: str, value: float, low: float, high: float = math.inf, *, open_end: bool = True) -> None:
    """Refuse a number outside [low, high), or [low, high] where the end is not open.

    Raises:
        ShapeError: outside, or NaN.
    """
    inside = low <= value and (value < high if open_end else value <= high)
    if not inside:
        ends = f"{low:g} <= {name}" + ("" if math.isinf(high) else f" {'<' if open_end else '<='} {high:g}")
        raise ShapeError(f"{name} is {value}; want {ends}")


def one_number(name: str, value: Tensor | float, like: Tensor) -> Tensor:
    """() on the device of ``like``, float64 where that is and float32 otherwise; with gradient where ``value`` has one.

    Raises:
        ShapeError: several numbers, or none.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    number = torch.as_tensor(value, dtype=dtype, device=like.device)
    if number.numel() != 1:
        raise ShapeError(f"{name} is one number, got shape {tuple(number.shape)}")
    return number.reshape(())


def positive_number(name: str, value: Tensor | float, like: Tensor, *, meaning: str) -> Tensor:
    """``one_number`` that must be positive and finite.

    Raises:
        ShapeError: it is not.
    """
    number = one_number(name, value, like)
    known = float(number.detach())
    if not 0 < known < math.inf:
        raise ShapeError(f"{name} is {known}; want > 0 ({meaning})")
    return number


def check_gathered(image: Tensor, group_ids: Tensor | None, gathered: Embeddings | None, offset: int) -> None:
    """Refuse a gathered batch that these rows are not part of.

    Raises:
        ShapeError: shapes or the offset do not fit.
    """
    if gathered is None:
        if offset != 0:
            raise ShapeError(f"offset is {offset}, but nothing is gathered; give gathered too, or leave offset out")
        return
    shape = gathered.image.shape
    if len(shape) != 2 or shape[1] != image.shape[1] or gathered.text.shape != shape:
        raise ShapeError(
            f"gathered.image and gathered.text need equal shapes (n, {image.shape[1]}), got {tuple(shape)} and "
            f"{tuple(gathered.text.shape)}"
        )
    if not 0 <= offset <= len(gathered.image) - len(image):
        raise ShapeError(f"offset is {offset}; {len(image)} rows from there are not among the {shape[0]} gathered ones")
    if group_ids is not None and gathered.group_ids.shape != shape[:1]:
        raise ShapeError(f"gathered.group_ids need shape ({shape[0]},), got {tuple(gathered.group_ids.shape)}")


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
