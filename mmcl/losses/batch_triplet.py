"""Triplet margin loss mined from one batch of labelled embeddings: all, hardest or semi-hard triplets."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses.arguments import check_choice, check_matrix, check_range, check_rows, widened
from mmcl.losses.distances import DISTANCES, pairwise_distances, row_distances
from mmcl.losses.row_blocks import row_blocks, sum_over_blocks
from mmcl.losses.triplet import MINING


def batch_triplet(
    embeddings: Tensor,
    group_ids: Tensor,
    *,
    margin: float = 0.2,
    mining: str = "hardest",
    distance: str = "euclidean",
) -> Tensor:
    r"""Triplets within a batch: every row is an anchor, rows of its group its positives, all others its negatives.

    .. math:: \ell(a, p, n) = \max(0,\; D(a, p) - D(a, n) + m)

    ``mining`` says which triplets count:

    - "all": every (a, p, n), averaged over those whose hinge is above zero.
    - "hardest": for each anchor the farthest positive and the nearest negative, averaged over anchors.
    - "semi_hard": for each (a, p) the nearest negative farther than p, and where none is farther the farthest one;
      averaged over the pairs (a, p).

    Anchors without a positive or without a negative do not count; where none has both the loss is 0, with zero
    gradient.

    Args:
        embeddings: (b, d), floating; half precision is widened to float32.
        group_ids: (b,) int64; equal ids are positives of one another.
        margin: >= 0, in units of the distance.
        mining: "all", "hardest" or "semi_hard".
        distance: a name from ``mmcl.losses.distances``.

    Returns:
        () float32 (float64 of float64 inputs), >= 0. Memory is O(b (d + block)), and time O(b^2 (d + log b)), for all
        O(b^3) triplets too: active ones are counted in sorted rows.

    Raises:
        ShapeError: shapes do not fit, the batch is empty, or the margin is negative.
        ConfigError: unknown mining or distance.

    Source: Hermans et al. 2017 (arXiv:1703.07737) eq. 5 ("hardest": batch hard) and eq. 6 ("all": batch all, averaged
    over active triplets as in sec. 4.1), there summed over anchors and here averaged; "semi_hard": Schroff et al. 2015
    (arXiv:1503.03832) sec. 3.2, all anchor-positive pairs.

    Relations: ``triplet`` does the same for two sets of embeddings of which row i belongs to row i alone.

    Example:
        >>> import torch
        >>> x, ids = torch.eye(4)[[0, 0, 1, 1]], torch.tensor([7, 7, 8, 8])
        >>> float(batch_triplet(x, ids)), float(batch_triplet(x, ids[[0, 2, 1, 3]])) > 1
        (0.0, True)
    """
    check_choice("mining", mining, MINING)
    check_choice("distance", distance, DISTANCES)
    check_range("margin", margin, 0.0)
    check_matrix("embeddings", embeddings)
    if group_ids is None:
        raise ShapeError(f"group_ids is None; want ({len(embeddings)},) ids, of which equal ones are positives")
    check_rows("group_ids", group_ids, len(embeddings))
    with torch.autocast(embeddings.device.type, enabled=False):
        (embeddings,) = widened(embeddings)
        if mining == "hardest":
            return _hardest(embeddings, group_ids, margin, distance)
        of_block = _all_of_block if mining == "all" else _semi_hard_of_block

        def block_sum(block: slice, x: Tensor) -> tuple[Tensor, Tensor]:
            return of_block(pairwise_distances(x[block], x, distance), *_masks(group_ids, block), margin)

        blocks = row_blocks(len(embeddings), len(embeddings), embeddings.device)
        total, count = sum_over_blocks(block_sum, blocks, embeddings)
        return total / count.clamp(min=1)


def _masks(groups: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """(r, b) bool each: positives of the block's rows, the rows themselves left out, and negatives."""
    same = groups[block, None] == groups
    positives = same.clone()
    positives.diagonal(block.start).fill_(False)
    return positives, ~same


def _hardest(x: Tensor, groups: Tensor, margin: float, distance: str) -> Tensor:
    farthest, nearest, complete = [], [], []
    with torch.no_grad():
        for block in row_blocks(len(x), len(x), x.device):
            distances = pairwise_distances(x[block], x, distance)  # (r, b)
            positives, negatives = _masks(groups, block)
            farthest.append(distances.masked_fill(~positives, -torch.inf).argmax(1))
            nearest.append(distances.masked_fill(~negatives, torch.inf).argmin(1))
            complete.append(positives.any(1) & negatives.any(1))
    complete = torch.cat(complete)
    to_positive = row_distances(x, x[torch.cat(farthest)], distance)
    hinges = (to_positive - row_distances(x, x[torch.cat(nearest)], distance) + margin).relu()
    return hinges.masked_fill(~complete, 0.0).sum() / complete.sum().clamp(min=1)


def _all_of_block(distances: Tensor, positives: Tensor, negatives: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """Sum and number of active triplets of a block, from how many of them each distance is in."""
    reach = distances + margin  # (r, b); of a positive: how far it is active against negatives
    with torch.no_grad():
        sorted_negatives = distances.masked_fill(~negatives, torch.inf).sort(1).values
        sorted_reaches = reach.masked_fill(~positives, torch.inf).sort(1).values
        # A triplet is active where the negative is nearer than the positive reaches; equal is not.
        of_positive = torch.searchsorted(sorted_negatives, reach).masked_fill(~positives, 0)
        passed = torch.searchsorted(sorted_reaches, distances.contiguous(), right=True)
        of_negative = (positives.sum(1, keepdim=True) - passed).masked_fill(~negatives, 0)
        active = of_positive.sum(1, keepdim=True)
        # Both sums below count every active triplet once, so a number taken from all their terms changes nothing,
        # except that the sums stay small and their difference exact.
        centre = (of_negative * distances).sum(1, keepdim=True) / active.clamp(min=1)
    total = (of_positive * (reach - centre)).sum() - (of_negative * (distances - centre)).sum()
    return total, active.sum()


def _semi_hard_of_block(
    distances: Tensor, positives: Tensor, negatives: Tensor, margin: float
) -> tuple[Tensor, Tensor]:
    """Sum of the hinges of all (anchor, positive) of a block, and their number."""
    with torch.no_grad():
        nearest_first, rows = distances.masked_fill(~negatives, torch.inf).sort(1)
        how_many = negatives.sum(1, keepdim=True)
        first_farther = torch.searchsorted(nearest_first, distances.contiguous(), right=True)
        # Where no negative is farther, the last one is the farthest.
        chosen = rows.gather(1, first_farther.minimum(how_many - 1).clamp(min=0))
        counted = positives & (how_many > 0)
    hinges = (distances - distances.gather(1, chosen) + margin).relu().masked_fill(~counted, 0.0)
    # Zero, unless a distance is NaN that no triplet chose: it must not stay hidden.
    return hinges.sum() + 0.0 * distances.sum(), counted.sum()
