"""From how likely pairs are right, or from their losses, to what they weigh."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError


def dropped_share(share: float, *, epochs: int, ramp_epochs: int) -> float:
    r"""The share of pairs left out, ``share * min(1, epochs / ramp_epochs)``.

    Args:
        share: in the end, in [0, 1].
        epochs: that have passed behind the warm-up, from 1.
        ramp_epochs: until all of ``share`` is left out; 0: at once.

    Source: Han et al. 2018, Co-teaching (arXiv:1804.06872) section 2, ``R(T)``.

    Example:
        >>> dropped_share(0.3, epochs=2, ramp_epochs=4)
        0.15
    """
    return share * (min(1.0, epochs / ramp_epochs) if ramp_epochs else 1.0)


def smallest(losses: Tensor, share: float) -> Tensor:
    """1 for the pairs of the smallest losses, 0 for the rest.

    Args:
        losses: (n,).
        share: of the pairs that get 0, in [0, 1); rounded down to whole pairs. Of equal losses earlier rows stay.

    Returns:
        (n,) float32.

    Raises:
        ShapeError: ``share`` is outside.

    Example:
        >>> import torch
        >>> smallest(torch.tensor([3.0, 1.0, 2.0, 9.0]), 0.5).tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    if not 0 <= share < 1:
        raise ShapeError(f"share is {share}; want 0 <= share < 1")
    weights = torch.ones(len(losses))
    weights[losses.argsort(stable=True)[len(losses) - int(share * len(losses)) :]] = 0
    return weights


def mean_by(values: Tensor, ids: Tensor) -> Tensor:
    """(n,) each value's mean over those of the same id; values that are NaN are left out, and filled.

    Args:
        values: (n,) floats; an id of which all are NaN keeps NaN.
        ids: (n,) int64, >= 0.

    Example:
        >>> import torch
        >>> mean_by(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1])).tolist()
        [2.0, 2.0, 5.0]
    """
    known = ~values.isnan()
    count = int(ids.max()) + 1 if len(ids) else 0
    sums = torch.zeros(count, dtype=torch.float64).index_add(0, ids[known], values[known].double())
    return (sums / torch.bincount(ids[known], minlength=count))[ids].to(values.dtype)
