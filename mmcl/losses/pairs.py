"""Losses of pairs that are similar or not, as targets say: by distance, and by cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.losses.arguments import (
    check_choice,
    check_pair,
    check_positive,
    check_range,
    similar_pairs,
    weighted_mean,
    widened,
)
from mmcl.losses.distances import DISTANCES, row_distances, unit_rows


def margin_contrastive(
    x: Tensor,
    y: Tensor,
    targets: Tensor | None = None,
    *,
    margin: float = 1.0,
    distance: str = "euclidean",
    weights: Tensor | None = None,
) -> Tensor:
    r"""Contrastive loss of siamese networks: similar pairs are drawn together, others pushed apart to a margin.

    .. math:: \ell = \tfrac12\, t\, D^2 + \tfrac12\, (1 - t) \max(0, m - D)^2

    Args:
        x: (b, d) embeddings, floating; half precision is widened to float32.
        y: (b, d); row i is paired with row i of x.
        targets: (b,) bool or 0 / 1; 1 is similar. None: all are.
        margin: > 0, in units of the distance.
        distance: a name from ``mmcl.losses.distances``. "squared_euclidean" is squared once more.
        weights: (b,) >= 0 of the pairs in the mean. None: equal. Where all are 0 the loss is 0.

    Returns:
        () float32 (float64 of float64 inputs), >= 0: the weighted mean over pairs. A dissimilar pair of equal rows has
        zero gradient: there is no direction to push it in.

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, targets or weights hold other values, or the margin
            is not positive.
        ConfigError: an unknown distance.

    Source: Hadsell, Chopra and LeCun 2006, "Dimensionality Reduction by Learning an Invariant Mapping", eq. 4. There
    Y = 0 is similar and pairs are summed.

    Relations: each pair costs half the square of what it costs in ``euclidean``, or, by that distance, ``manhattan``.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(2, 2), torch.tensor([[0.6, 0.0], [0.6, 0.0]])
        >>> round(float(margin_contrastive(x, y, torch.tensor([1, 0]))), 3)  # (0.36 / 2 + 0.16 / 2) / 2
        0.13
    """
    check_choice("distance", distance, DISTANCES)
    x, y, similar = _checked(x, y, targets, margin)
    hinges = _hinges(row_distances(x, y, distance), similar, margin)
    return weighted_mean(hinges.square() / 2, weights)


def euclidean(
    x: Tensor, y: Tensor, targets: Tensor | None = None, *, margin: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    r"""Euclidean distance of similar pairs, and what dissimilar ones lack of a margin.

    .. math:: \ell = t\, \lVert x - y \rVert_2 + (1 - t) \max(0, m - \lVert x - y \rVert_2)

    Args:
        x: (b, d) embeddings, floating; half precision is widened to float32.
        y: (b, d); row i is paired with row i of x.
        targets: (b,) bool or 0 / 1; 1 is similar. None: all are.
        margin: > 0; unit rows are at most 2 apart.
        weights: (b,) >= 0 of the pairs in the mean. None: equal. Where all are 0 the loss is 0.

    Returns:
        () float32 (float64 of float64 inputs), >= 0: the weighted mean over pairs.

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, targets or weights hold other values, or the margin
            is not positive.

    Source: the hinge of Hadsell, Chopra and LeCun 2006 eq. 4 without its squares.

    Relations: ``margin_contrastive`` is half the square of each pair's term. Without the square every pair pulls with
    the same force until it coincides: single outliers weigh less, near pairs more.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(2, 2), torch.tensor([[0.3, 0.4], [0.3, 0.4]])
        >>> float(euclidean(x, y)), float(euclidean(x, y, torch.tensor([False, False]), margin=2.0))
        (0.5, 1.5)
    """
    x, y, similar = _checked(x, y, targets, margin)
    return weighted_mean(_hinges(row_distances(x, y, "euclidean"), similar, margin), weights)


def manhattan(
    x: Tensor, y: Tensor, targets: Tensor | None = None, *, margin: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    r"""Manhattan distance of similar pairs, and what dissimilar ones lack of a margin.

    .. math:: \ell = t\, \lVert x - y \rVert_1 + (1 - t) \max(0, m - \lVert x - y \rVert_1)

    Args:
        x: (b, d) embeddings, floating; half precision is widened to float32.
        y: (b, d); row i is paired with row i of x.
        targets: (b,) bool or 0 / 1; 1 is similar. None: all are.
        margin: > 0; distances grow with d, for unit rows up to 2 sqrt(d).
        weights: (b,) >= 0 of the pairs in the mean. None: equal. Where all are 0 the loss is 0.

    Returns:
        () float32 (float64 of float64 inputs), >= 0: the weighted mean over pairs.

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, targets or weights hold other values, or the margin
            is not positive.

    Source: as ``euclidean``, with the distance of Mueller and Thyagarajan 2016, "Siamese Recurrent Architectures for
    Learning Sentence Similarity", who take exp(-distance) for a similarity.

    Relations: ``euclidean`` pulls along the difference, this along its signs: coordinates that agree stay as they are.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(2, 2), torch.tensor([[0.25, 0.5], [0.25, 0.5]])
        >>> float(manhattan(x, y)), float(manhattan(x, y, torch.tensor([False, False])))
        (0.75, 0.25)
    """
    x, y, similar = _checked(x, y, targets, margin)
    return weighted_mean(_hinges(row_distances(x, y, "manhattan"), similar, margin), weights)


def cosine(
    x: Tensor, y: Tensor, targets: Tensor | None = None, *, margin: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    r"""Cosine distance of similar pairs, and what is above a margin of the cosine of dissimilar ones.

    .. math:: \ell = t\, (1 - \cos(x, y)) + (1 - t) \max(0, \cos(x, y) - m)

    Args:
        x: (b, d) embeddings of any length, floating; half precision is widened to float32. Rows of zeros have cosine 0.
        y: (b, d); row i is paired with row i of x.
        targets: (b,) bool or 0 / 1; 1 is similar. None: all are.
        margin: in [-1, 1]: the cosine dissimilar pairs may have.
        weights: (b,) >= 0 of the pairs in the mean. None: equal. Where all are 0 the loss is 0.

    Returns:
        () float32 (float64 of float64 inputs), >= 0: the weighted mean over pairs.

    Raises:
        ShapeError: shapes differ or do not fit, the batch is empty, targets or weights hold other values, or the margin
            is outside [-1, 1].

    Source: torch.nn.CosineEmbeddingLoss, whose targets are 1 and -1.

    Relations: on unit rows and similar pairs it is ``margin_contrastive``: half the squared Euclidean distance.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> float(cosine(x, y)), float(cosine(x, y, torch.tensor([0]))), float(cosine(x, x, torch.tensor([0])))
        (1.0, 0.0, 1.0)
    """
    check_range("margin", margin, -1.0, 1.0, open_end=False)
    x, y, similar = _checked(x, y, targets, 1.0)
    with torch.autocast(x.device.type, enabled=False):
        cosines = (unit_rows(x) * unit_rows(y)).sum(1)
        return weighted_mean(torch.where(similar, 1 - cosines, (cosines - margin).relu()), weights)


def _checked(x: Tensor, y: Tensor, targets: Tensor | None, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """x and y in the computing dtype, and (b,) bool of which pairs are similar."""
    check_pair(x, y, names=("x", "y"))
    check_positive("margin", margin)
    return *widened(x, y), similar_pairs(targets, x)


def _hinges(distances: Tensor, similar: Tensor, margin: float) -> Tensor:
    return torch.where(similar, distances, (margin - distances).relu())
