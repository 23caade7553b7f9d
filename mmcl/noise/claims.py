"""`Claims`: which pairs say the same, and which contradict one another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ShapeError


@dataclass(frozen=True)
class Claims:
    """What pairs claim: that a caption describes the images of a group. Several pairs may claim the same.

    Args:
        groups: (n,) int64, >= 0; the group of each pair's image.
        captions: (n,) int64, >= 0; the caption of each pair.

    Raises:
        ShapeError: the two differ in shape, or have more than one dimension.

    Example:
        >>> import torch
        >>> claims = Claims(groups=torch.tensor([0, 0, 1, 1, 2]), captions=torch.tensor([7, 7, 7, 8, 9]))
        >>> claims.ids.tolist(), claims.kinds().tolist()
        ([0, 0, 1, 2, 3], [1, 1, 2, 2, 0])
    """

    groups: Tensor
    captions: Tensor

    def __post_init__(self) -> None:
        if self.groups.shape != self.captions.shape or self.groups.ndim != 1:
            shapes = tuple(self.groups.shape), tuple(self.captions.shape)
            raise ShapeError(f"groups and captions need one shape (n,), got {shapes[0]} and {shapes[1]}")

    @classmethod
    def alone(cls, rows: int) -> Claims:
        """Each of so many pairs with a group and a caption of its own."""
        return cls(torch.arange(rows), torch.arange(rows))

    @cached_property
    def ids(self) -> Tensor:
        """(n,) int64, equal for pairs that claim the same."""
        span = int(self.captions.max()) + 1 if len(self.captions) else 1
        return (self.groups * span + self.captions).unique(return_inverse=True)[1]

    def kinds(self) -> Tensor:
        """(n,) int64 in [0, 4): 1 where several pairs claim it, and 2 more where others of the group contradict it."""

        def rows_of(ids: Tensor) -> Tensor:
            _, inverse, counts = ids.unique(return_inverse=True, return_counts=True)
            return counts[inverse]

        of_claim = rows_of(self.ids)
        return (of_claim > 1).long() + 2 * (rows_of(self.groups) > of_claim).long()

    def against_rivals(self, losses: Tensor, limit: float) -> Tensor:
        """(n,) each loss less half that of its best rival in the group, and half that of the best for its caption.

        Where several captions stand for one group, or one caption for several groups, seldom all are right: a claim is
        the more likely wrong the better its rivals fit.

        Args:
            losses: (n,) finite; equal for pairs that claim the same.
            limit: rivals with a larger loss, and such as there are not, count with this one.
        """
        found = losses.clone()
        for key in (self.groups, self.captions):
            found -= _best_rival(losses, key, self.ids).clamp(max=limit) / 2
        return found


def _best_rival(losses: Tensor, key: Tensor, ids: Tensor) -> Tensor:
    """(n,) the smallest loss of another claim with the same key; infinite where there is none."""
    _, first, own = np.unique(ids.numpy(), return_index=True, return_inverse=True)
    loss, place = losses.numpy()[first], key.numpy()[first]
    order = np.lexsort((loss, place))
    loss, place = loss[order], place[order]
    begins = np.concatenate([[True], place[1:] != place[:-1]]) if len(place) else np.zeros(0, dtype=bool)
    group = np.cumsum(begins) - 1
    best = loss[begins]
    second = np.full(len(best), np.inf, dtype=loss.dtype)
    is_second = np.flatnonzero(begins)[np.diff(np.append(np.flatnonzero(begins), len(place))) > 1] + 1
    second[group[is_second]] = loss[is_second]
    rival = np.empty_like(loss)
    rival[order] = np.where(begins, second[group], best[group])
    return torch.from_numpy(rival[own])
