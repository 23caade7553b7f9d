"""Distances by name: of paired rows and of all pairs of rows, with a finite gradient where rows coincide."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses.arguments import check_choice, check_matrix, check_pair, widened
from mmcl.losses.row_blocks import row_blocks

DISTANCES = ("cosine", "euclidean", "manhattan", "squared_euclidean")


def unit_rows(x: Tensor) -> Tensor:
    """Rows divided by their L2 norm; a row of zeros stays zero and has a finite gradient.

    Args:
        x: (n, d), floating.

    Returns:
        (n, d), the same dtype.

    Example:
        >>> import torch
        >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    return x / norms.masked_fill(norms == 0, 1.0)


def row_distances(x: Tensor, y: Tensor, distance: str = "euclidean") -> Tensor:
    r"""Distance of row i of x to row i of y.

    .. math:: 1 - \cos(x_i, y_i), \quad \lVert x_i - y_i \rVert_2, \quad \lVert x_i - y_i \rVert_2^2, \quad
              \lVert x_i - y_i \rVert_1

    for "cosine", "euclidean", "squared_euclidean" and "manhattan". Of unit rows the squared Euclidean distance is twice
    the cosine distance. Where two rows coincide the gradient is 0: a Euclidean distance has no direction there, and 0
    is in its subdifferential.

    Args:
        x: (b, d), floating; half precision is widened to float32.
        y: (b, d).
        distance: "cosine", "euclidean", "squared_euclidean" or "manhattan". "cosine" normalises rows itself; a row of
            zeros has cosine 0 with every other.

    Returns:
        (b,) float32, or float64 where both inputs are.

    Raises:
        ShapeError: shapes differ, or there are no rows.
        ConfigError: an unknown distance.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> [round(float(row_distances(x, y, name)), 3) for name in DISTANCES]
        [1.0, 1.414, 2.0, 2.0]
    """
    check_choice("distance", distance, DISTANCES)
    check_pair(x, y, names=("x", "y"))
    with torch.autocast(x.device.type, enabled=False):
        x, y = widened(x, y)
        if distance == "cosine":
            return 1 - (unit_rows(x) * unit_rows(y)).sum(1)
        if distance == "euclidean":
            return torch.linalg.vector_norm(x - y, dim=1)
        difference = x - y
        return difference.square().sum(1) if distance == "squared_euclidean" else difference.abs().sum(1)


def pairwise_distances(x: Tensor, y: Tensor, distance: str = "euclidean") -> Tensor:
    r"""Distance of every row of x to every row of y, as ``row_distances`` defines it.

    Euclidean distances of float32 rows come from one product in float64: in float32 the usual
    :math:`\lVert x \rVert^2 + \lVert y \rVert^2 - 2 \langle x, y \rangle` cancels, and near pairs, which a loss is made
    of, would be off by 3e-4. Rows that differ by less than float32 can tell (1e-7 of their norm) count as equal.

    Args:
        x: (n, d), floating; half precision is widened to float32.
        y: (m, d).
        distance: "cosine", "euclidean", "squared_euclidean" or "manhattan".

    Returns:
        (n, m) float32, or float64 where both inputs are. Memory beside it is O((n + m) d); "manhattan" takes a time of
        O(n m d) without matrix products, many times the others'.

    Raises:
        ShapeError: x and y are not matrices of equal width, or hold no rows.
        ConfigError: an unknown distance.

    Example:
        >>> import torch
        >>> pairwise_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0], [0.0, 0.0]]), "manhattan").tolist()
        [[7.0, 0.0]]
    """
    check_choice("distance", distance, DISTANCES)
    check_matrix("x", x)
    check_matrix("y", y)
    if x.shape[1] != y.shape[1]:
        raise ShapeError(f"x and y need rows of equal length, got {tuple(x.shape)} and {tuple(y.shape)}")
    with torch.autocast(x.device.type, enabled=False):
        x, y = widened(x, y)
        if distance == "cosine":
            return 1 - unit_rows(x) @ unit_rows(y).T
        if distance == "manhattan":
            return _Manhattan.apply(x, y)
        squared = _SquaredEuclidean.apply(x, y)
        if distance == "squared_euclidean":
            return squared
        equal = squared == 0
        # The inner mask keeps the infinite slope of the root at zero out of the backward; NaN passes both.
        return squared.masked_fill(equal, 1.0).sqrt().masked_fill(equal, 0.0)


def _squared_euclidean(x: Tensor, y: Tensor) -> Tensor:
    if x.dtype == torch.float64 or x.device.type == "mps":  # nothing wider to multiply in: by differences
        return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    x, y = x.double(), y.double()
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    squared = norms - 2 * (x @ y.T)
    # What rounding leaves of the distance of equal rows; without this it would be given a direction.
    return squared.masked_fill_(squared <= 1e-14 * norms, 0.0).float()


class _SquaredEuclidean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return _squared_euclidean(x, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):  # a backward may be called under autocast
            doubled = 2 * gradient  # (n, m)
            return (
                doubled.sum(1, keepdim=True) * x - doubled @ y,
                doubled.sum(0)[:, None] * y - doubled.T @ x,
            )


class _Manhattan(torch.autograd.Function):
    """torch.cdist with p = 1, whose own backward holds (n, m, d) on a GPU."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return torch.cdist(x, y, p=1.0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        for_x, for_y = torch.empty_like(x), torch.zeros_like(y)
        with torch.autocast(x.device.type, enabled=False):
            for block in row_blocks(len(x), y.numel(), x.device):
                signs = (x[block, None] - y).sign_()  # (r, m, d)
                for_x[block] = torch.einsum("rm,rmd->rd", gradient[block], signs)
                for_y -= torch.einsum("rm,rmd->md", gradient[block], signs)
        return for_x, for_y
