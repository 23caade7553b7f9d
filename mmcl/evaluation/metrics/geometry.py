"""How embeddings lie in their space: alignment, uniformity, the modality gap, effective rank, hubs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows
from mmcl.evaluation.retrieval.ranking import TILE, pad_rows, score_buffer

# A dimension is dead where its standard deviation is below this share of what it is on a sphere filled evenly.
DEAD_SHARE = 0.01


def alignment(left: Tensor, right: Tensor) -> Tensor:
    """``|left_i - right_i|^2`` of each positive pair; its mean is the alignment: 0 at best, 2 at right angles.

    Args:
        left: (n, d) floating, unit rows.
        right: (n, d) floating, unit rows.

    Returns:
        (n,) float64.

    Raises:
        ShapeError: the shapes differ, or a row is not finite.

    Source:
        Wang & Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
        Hypersphere", section 4.1, with alpha = 2.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0))
        tensor([2., 2.], dtype=torch.float64)
    """
    left, right = _check_two(left, right)
    if left.shape != right.shape:
        raise ShapeError(f"left and right need equal shapes, got {tuple(left.shape)} and {tuple(right.shape)}")
    return (left.double() - right.double()).square().sum(1)


def uniformity(points: Tensor, *, t: float = 2.0) -> float:
    """``log of the mean over pairs i != j of exp(-t |x_i - x_j|^2)``: 0 where all points are one, lower is more even.

    Every pair is looked at, a block of rows at a time: memory is O(block * n).

    Args:
        points: (n, d) floating, n at least 2. On the unit sphere the value is at least ``-4 t``.
        t: above 0.

    Raises:
        ShapeError: fewer than two rows, or a row is not finite.
        ConfigError: ``t`` is not above 0.

    Source:
        Wang & Isola 2020, section 4.1, with t = 2, over distinct pairs as their code has it.

    Example:
        >>> round(uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), 6)
        -8.0
    """
    points = check_finite_rows("points", points)
    if len(points) < 2:
        raise ShapeError(f"points needs at least two rows for a pair, got {len(points)}")
    if not 0 < t < math.inf:
        raise ConfigError(f"t needs to be a finite number above 0, got {t}")
    squares = points.square().sum(1)
    buffer = score_buffer(len(points), len(points), None)
    parts = []
    for rows in torch.arange(len(points)).split(len(buffer)):
        block = torch.mm(points[rows], points.T, out=buffer[: len(rows)])
        distances = block.mul_(-2.0).add_(squares).add_(squares[rows, None]).clamp_(min=0.0)
        distances[torch.arange(len(rows)), rows] = torch.inf  # no pair of a point with itself
        parts.append(distances.mul_(-t).logsumexp(1).double().logsumexp(0))
    return float(torch.stack(parts).logsumexp(0)) - math.log(len(points)) - math.log(len(points) - 1)


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """``|mean of images - mean of texts|``: the distance of the two centres, 0 to 2 for unit rows.

    Args:
        images: (n, d) floating, n at least 1.
        texts: (m, d) floating, m at least 1.

    Raises:
        ShapeError: the widths differ, one has no row, or a row is not finite.

    Source:
        Liang et al. 2022, "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation
        Learning", section 2.

    Example:
        >>> modality_gap(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
        2.0
    """
    images, texts = _check_two(images, texts)
    if not len(images) or not len(texts):
        raise ShapeError(f"images and texts need at least one row each, got {len(images)} and {len(texts)}")
    return float((images.double().mean(0) - texts.double().mean(0)).norm())


def effective_rank(points: Tensor) -> float:
    """``exp(-sum of p_k log p_k)``, ``p_k`` the k-th singular value's share of their sum: how many dimensions are used.

    Args:
        points: (n, d) floating, n at least 1; not centred first.

    Returns:
        From 1 (all rows along one line through the origin) to min(n, d); 0 where every row is zero.

    Raises:
        ShapeError: no row, or one is not finite.

    Source:
        Roy & Vetterli 2007, "The effective rank: a measure of effective dimensionality"; as RankMe in Garrido et al.
        2023, who add 1e-7 to each p_k.

    Example:
        >>> round(effective_rank(torch.eye(4)), 6)
        4.0
    """
    points = check_finite_rows("points", points)
    if not points.numel():
        raise ShapeError(f"points needs at least one row and one column, got shape {tuple(points.shape)}")
    # The triangle of a QR decomposition has the same singular values, and at most d rows.
    values = torch.linalg.svdvals(torch.linalg.qr(points.double(), mode="r").R)
    if not values.sum():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def k_occurrence(queries: Tensor, gallery: Tensor, *, k: int, exclude_self: bool = False) -> Tensor:
    """How many queries have each gallery item among their k nearest, by ``queries @ gallery.T``.

    Items that tie for the last of a query's k places share what is left of these: where all are equal, each occurs
    equally often. Memory is O(block * m).

    Args:
        queries: (n, d) floating.
        gallery: (m, d) floating, m at least 1.
        k: at least 1; above the number of items: all of them.
        exclude_self: query i is item i, and none of its own neighbours.

    Returns:
        (m,) float64, with the sum n * k.

    Raises:
        ShapeError: the widths differ, the gallery is empty, or a row is not finite.
        ConfigError: k is below 1.

    Example:
        >>> k_occurrence(torch.eye(2), torch.eye(2)[[0, 0, 1]], k=1)
        tensor([0.5000, 0.5000, 1.0000], dtype=torch.float64)
    """
    queries, gallery = _check_two(queries, gallery)
    if k < 1:
        raise ConfigError(f"k needs to be at least 1, got {k}")
    if len(gallery) < 1 + exclude_self or (exclude_self and len(gallery) != len(queries)):
        raise ShapeError(f"gallery needs at least one neighbour for each query, got {len(gallery)} rows")
    k = min(k, len(gallery) - exclude_self)
    counts = torch.zeros(len(gallery), dtype=torch.float64)
    padded = pad_rows(gallery, TILE)
    buffer = score_buffer(len(queries), len(padded), None)
    for rows in torch.arange(len(queries)).split(len(buffer)):
        torch.mm(pad_rows(queries[rows], len(buffer)), padded.T, out=buffer)
        scores = buffer[: len(rows), : len(gallery)]
        if exclude_self:
            scores[torch.arange(len(rows)), rows] = -torch.inf
        last = scores.topk(k, dim=1).values[:, -1:]
        above, tied = scores > last, scores == last
        part = (k - above.sum(1)).double() / tied.sum(1)  # (b,) of a place for each that ties
        counts += above.sum(0) + (tied * part[:, None]).sum(0)
    return counts


def skewness(counts: Tensor) -> float:
    """``mean of ((x - mean) / standard deviation)^3``: of `k_occurrence` it is the hubness.

    Args:
        counts: (m,) floating, m at least 1.

    Returns:
        0 where all are equal; the higher above 0, the fewer items are near to many queries.

    Raises:
        ShapeError: not one axis, empty, or not finite.

    Source:
        Radovanović, Nanopoulos & Ivanović 2010, "Hubs in Space: Popular Nearest Neighbors in High-Dimensional Data",
        equation 1.

    Example:
        >>> skewness(torch.tensor([0.0, 0.0, 0.0, 4.0])) > 1
        True
    """
    if counts.ndim != 1 or not len(counts) or not counts.isfinite().all():
        raise ShapeError(f"counts needs shape (m,), m at least 1, of finite numbers, got shape {tuple(counts.shape)}")
    centred = counts.double() - counts.double().mean()
    deviation = float(centred.square().mean().sqrt())
    # What shares of places add up to is equal up to rounding alone.
    return 0.0 if deviation < 1e-9 * float(counts.abs().max()) else float((centred / deviation).pow(3).mean())


def dead_dimensions(points: Tensor) -> float:
    """The share of dimensions that hardly vary: standard deviation below 1 % of ``1 / sqrt(d)``.

    ``1 / sqrt(d)`` is the standard deviation of each dimension where unit rows fill the sphere evenly.

    Args:
        points: (n, d) floating, unit rows, n at least 1.

    Returns:
        In [0, 1]; 1 where all rows are equal.

    Raises:
        ShapeError: no row, or one is not finite.

    Example:
        >>> dead_dimensions(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        0.5
    """
    points = check_finite_rows("points", points)
    if not points.numel():
        raise ShapeError(f"points needs at least one row and one column, got shape {tuple(points.shape)}")
    deviation = points.double().std(0, correction=0)
    return float((deviation < DEAD_SHARE / math.sqrt(points.shape[1])).double().mean())


def repeated_rows(points: Tensor) -> float:
    """The share of rows that equal an earlier one exactly: ``1 - distinct / n``; what a collapsed model shows first.

    Args:
        points: (n, d) floating, n at least 1.

    Raises:
        ShapeError: no row, or one is not finite.

    Example:
        >>> repeated_rows(torch.tensor([[1.0], [1.0], [0.0], [1.0]]))
        0.5
    """
    points = check_finite_rows("points", points)
    if not len(points):
        raise ShapeError("points needs at least one row, got none")
    return 1.0 - len(points.unique(dim=0)) / len(points)


def _check_two(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    left, right = check_finite_rows("the first argument", left), check_finite_rows("the second argument", right)
    if left.shape[1] != right.shape[1]:
        raise ShapeError(f"both arguments need one width, got {tuple(left.shape)} and {tuple(right.shape)}")
    return left, right
