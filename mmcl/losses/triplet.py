"""Triplet margin loss over explicit triplets, or over a batch of pairs with all, hardest or semi-hard negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.losses.arguments import check_choice, check_pair, check_range, check_rows, widened
from mmcl.losses.distances import DISTANCES, pairwise_distances, row_distances
from mmcl.losses.row_blocks import row_blocks, sum_over_blocks

MINING = ("all", "hardest", "semi_hard")


def triplet(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor | None = None,
    *,
    group_ids: Tensor | None = None,
    margin: float = 0.2,
    mining: str = "all",
    distance: str = "euclidean",
) -> Tensor:
    r"""Hinge that wants a positive nearer than a negative by a margin.

    .. math:: \ell(a, p, n) = \max(0,\; D(a, p) - D(a, n) + m)

    Given ``negative``, the mean over rows. Otherwise rows are pairs, such as images and texts: the positive of
    ``anchor[i]`` is ``positive[i]`` alone, its negatives are the other rows of ``positive`` outside its group, and the
    same the other way round; the loss is the mean of both directions. ``mining`` says which negatives count:

    - "all": every negative, averaged over the triplets whose hinge is above zero. Averaged over all of them the loss
      fades as most triplets come right.
    - "hardest": the nearest negative of each row, averaged over rows.
    - "semi_hard": the nearest negative that is farther than the positive, averaged over rows; where none is farther,
      the farthest negative, so that collapsed embeddings still cost the margin.

    A single row, and a batch of one group, have no negatives: 0, with zero gradient.

    Args:
        anchor: (b, d) embeddings, floating; half precision is widened to float32.
        positive: (b, d).
        negative: (b, d), or None to find negatives in the batch.
        group_ids: (b,) int64; rows of the same group are never negatives. None: every row is a group of its own. Not
            with ``negative``.
        margin: >= 0, in units of the distance.
        mining: "all", "hardest" or "semi_hard". With ``negative`` there is nothing to mine.
        distance: a name from ``mmcl.losses.distances``.

    Returns:
        () float32 (float64 of float64 inputs), >= 0. Memory is O(b (d + block)).

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, or the margin is negative.
        ConfigError: unknown mining or distance, or explicit negatives together with group_ids or mining.

    Source: the hinge and semi-hard negatives: Schroff et al. 2015 (arXiv:1503.03832) eq. 1-4, there with squared
    Euclidean distances and no word on rows without semi-hard negatives. Averaging over active triplets: Hermans et al.
    2017 (arXiv:1703.07737) sec. 4.1. "hardest" with distance "cosine" is the max of hinges of VSE++: Faghri et al. 2018
    (arXiv:1707.05612) eq. 6, there summed over rows and directions and here averaged.

    Relations: ``batch_triplet`` mines one set of embeddings by label. On unit rows, "squared_euclidean" with twice the
    margin is twice the loss with "cosine".

    Example:
        >>> import torch
        >>> x = torch.eye(3)
        >>> float(triplet(x, x)), round(float(triplet(x, x.roll(1, 0), mining="hardest")), 3)
        (0.0, 1.614)
    """
    check_choice("mining", mining, MINING)
    check_choice("distance", distance, DISTANCES)
    check_range("margin", margin, 0.0)
    check_pair(anchor, positive, names=("anchor", "positive"))
    check_rows("group_ids", group_ids, len(anchor))
    with torch.autocast(anchor.device.type, enabled=False):
        if negative is not None:
            if group_ids is not None or mining != "all":
                raise ConfigError(
                    "negative is given, so nothing is mined; leave out group_ids and mining, or leave out negative"
                )
            check_pair(anchor, negative, names=("anchor", "negative"))
            anchor, positive, negative = widened(anchor, positive, negative)
            to_positive = row_distances(anchor, positive, distance)
            return (to_positive - row_distances(anchor, negative, distance) + margin).relu().mean()
        anchor, positive = widened(anchor, positive)
        groups = torch.arange(len(anchor), device=anchor.device) if group_ids is None else group_ids
        directions = ((anchor, positive), (positive, anchor))
        if mining == "all":
            return sum(_all_negatives(*pair, groups, margin, distance) for pair in directions) / 2
        return sum(_mined_negatives(*pair, groups, margin, mining, distance) for pair in directions) / 2


def _all_negatives(anchor: Tensor, positive: Tensor, groups: Tensor, margin: float, distance: str) -> Tensor:
    def block_sum(block: slice, anchor: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
        distances = pairwise_distances(anchor[block], positive, distance)  # (r, b)
        negatives = groups[block, None] != groups
        hinges = (distances.diagonal(block.start)[:, None] - distances + margin).relu()
        return hinges.masked_fill(~negatives, 0.0).sum(), ((hinges > 0) & negatives).sum()

    blocks = row_blocks(len(anchor), len(anchor), anchor.device)
    total, active = sum_over_blocks(block_sum, blocks, anchor, positive)
    return total / active.clamp(min=1)


def _mined_negatives(
    anchor: Tensor, positive: Tensor, groups: Tensor, margin: float, mining: str, distance: str
) -> Tensor:
    chosen = _choose(anchor, positive, groups, mining, distance)
    to_negative = row_distances(anchor, positive[chosen], distance)
    hinges = (row_distances(anchor, positive, distance) - to_negative + margin).relu()
    return hinges.mean() * (groups != groups[0]).any()  # of two groups, every row has a negative


@torch.no_grad()
def _choose(anchor: Tensor, positive: Tensor, groups: Tensor, mining: str, distance: str) -> Tensor:
    """(b,) row of ``positive`` that is each anchor's negative; any row where it has none."""
    chosen = []
    for block in row_blocks(len(anchor), len(anchor), anchor.device):
        distances = pairwise_distances(anchor[block], positive, distance)  # (r, b)
        negatives = groups[block, None] != groups
        if mining == "hardest":
            chosen.append(distances.masked_fill(~negatives, torch.inf).argmin(1))
        else:
            farther = negatives & (distances > distances.diagonal(block.start)[:, None])
            nearest = distances.masked_fill(~farther, torch.inf).argmin(1)
            farthest = distances.masked_fill(~negatives, -torch.inf).argmax(1)
            chosen.append(torch.where(farther.any(1), nearest, farthest))
    return torch.cat(chosen)
