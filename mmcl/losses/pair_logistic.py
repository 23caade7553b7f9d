"""Logistic losses of pairs that are similar or not: of each pair's own logit, and of which pairs score higher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.losses.arguments import check_pair, one_number, positive_number, similar_pairs, weighted_mean, widened
from mmcl.losses.distances import unit_rows
from mmcl.losses.row_blocks import row_blocks, sum_over_blocks


def pairwise_logistic(
    x: Tensor,
    y: Tensor,
    logit_scale: Tensor | float,
    targets: Tensor | None = None,
    *,
    logit_bias: Tensor | float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    r"""Binary cross-entropy of whether a pair is similar, from the logit of its cosine.

    .. math:: \ell = \log\big(1 + e^{-(2t - 1)\, z}\big), \qquad z = s \cos(x, y) + b

    Args:
        x: (b, d) embeddings of any length, floating; half precision is widened to float32.
        y: (b, d); row i is paired with row i of x.
        logit_scale: () or (1,), > 0.
        targets: (b,) bool or 0 / 1; 1 is similar. None: all are.
        logit_bias: () or (1,); a pair counts as similar where its cosine is above ``-logit_bias / logit_scale``.
        weights: (b,) >= 0 of the pairs in the mean. None: equal. Where all are 0 the loss is 0.

    Returns:
        () float32 (float64 of float64 inputs), > 0: the weighted mean over pairs.

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, logit_scale is not one positive number, or targets
            or weights hold other values.

    Source: Zhai et al. 2023 (arXiv:2303.15343) eq. 1, for the pairs given instead of all pairs of a batch.

    Relations: over all b * b pairs of a batch it is SigLIP's loss divided by b. As in that paper "pairwise" is said of
    the pairs judged, each for itself; in learning to rank the name means a comparison of two candidates, which is
    ``ranking_logistic`` here.

    Example:
        >>> import torch
        >>> x = torch.eye(2)
        >>> right = pairwise_logistic(x, x[[0, 0]], 10.0, torch.tensor([1, 0]), logit_bias=-5.0)
        >>> wrong = pairwise_logistic(x, x[[0, 0]], 10.0, torch.tensor([0, 1]), logit_bias=-5.0)
        >>> round(float(right), 3), round(float(wrong), 3)
        (0.007, 5.007)
    """
    check_pair(x, y, names=("x", "y"))
    with torch.autocast(x.device.type, enabled=False):
        x, y = widened(x, y)
        similar = similar_pairs(targets, x)
        scale = positive_number("logit_scale", logit_scale, x, meaning="it is 1 / temperature")
        logits = scale * (unit_rows(x) * unit_rows(y)).sum(1) + one_number("logit_bias", logit_bias, x)
        return weighted_mean(F.softplus(torch.where(similar, -logits, logits)), weights)


def ranking_logistic(x: Tensor, y: Tensor, logit_scale: Tensor | float, targets: Tensor) -> Tensor:
    r"""Logistic loss of every similar pair's cosine against every dissimilar pair's: who is above whom.

    .. math:: L = \frac{1}{|S||D|} \sum_{k \in S} \sum_{l \in D} \log\big(1 + e^{-s (c_k - c_l)}\big)

    with S the similar pairs of the batch, D the others and c their cosines. Where either is empty there is nothing to
    rank: 0, with zero gradient.

    Args:
        x: (b, d) embeddings of any length, floating; half precision is widened to float32.
        y: (b, d); row i is paired with row i of x.
        logit_scale: () or (1,), > 0.
        targets: (b,) bool or 0 / 1; 1 is similar.

    Returns:
        () float32 (float64 of float64 inputs), >= 0. Memory is O(b (d + block)).

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, logit_scale is not one positive number, or targets
            hold other values.

    Source: RankNet, Burges et al. 2005, "Learning to Rank using Gradient Descent", eq. 3 with known order; the mean
    over all such comparisons is a smooth form of one minus the area under the ROC curve.

    Relations: ``pairwise_logistic`` judges every pair against a fixed boundary; here a bias cancels, and only order
    counts. As the scale grows, L / scale becomes the mean of max(0, c_l - c_k).

    Example:
        >>> import torch
        >>> x, targets = torch.eye(2), torch.tensor([1, 0])
        >>> round(float(ranking_logistic(x, x[[0, 0]], 10.0, targets)), 5)
        5e-05
        >>> round(float(ranking_logistic(x, x[[1, 1]], 10.0, targets)), 5)
        10.00005
    """
    check_pair(x, y, names=("x", "y"))
    with torch.autocast(x.device.type, enabled=False):
        x, y = widened(x, y)
        similar = similar_pairs(targets, x)
        scale = positive_number("logit_scale", logit_scale, x, meaning="it is 1 / temperature")
        scores = scale * (unit_rows(x) * unit_rows(y)).sum(1)

        def block_sum(block: slice, scores: Tensor) -> tuple[Tensor, Tensor]:
            compared = similar[block, None] & ~similar  # (r, b): similar pairs against dissimilar ones
            losses = F.softplus(scores - scores[block, None])
            return losses.masked_fill(~compared, 0.0).sum(), compared.sum()

        total, count = sum_over_blocks(block_sum, row_blocks(len(x), len(x), x.device), scores)
        return total / count.clamp(min=1)
