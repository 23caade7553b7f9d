"""What the losses refuse, said once: shapes, numbers and options that do not fit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcl.batch import Embeddings
from mmcl.errors import ShapeError


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
    """() on the device of ``like``, with gradient where ``value`` has one; float64 if both are, float32 otherwise.

    Raises:
        ShapeError: several numbers, or none.
    """
    number = torch.as_tensor(value, device=like.device)
    if number.numel() != 1:
        raise ShapeError(f"{name} is one number, got shape {tuple(number.shape)}")
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return number.to(dtype).reshape(())


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
