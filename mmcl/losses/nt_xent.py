"""NT-Xent, SimCLR's loss: two views of every item, each to be found among all views but itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.losses.arguments import check_pair, positive_number
from mmcl.losses.candidates import Candidates
from mmcl.losses.row_statistics import RowStatistics, Sweep, row_statistics


def nt_xent(
    first: Tensor, second: Tensor, *, temperature: Tensor | float = 0.5, tile_size: int | None = None
) -> Tensor:
    r"""Mean cross-entropy of finding an item's other view among the 2b - 1 views that are not the view itself.

    With :math:`z = [x_1 .. x_b, y_1 .. y_b]` and :math:`p(i)` the other view of i,

    .. math:: L = -\frac{1}{2b} \sum_{i=1}^{2b} \log \frac{e^{\langle z_i, z_{p(i)}\rangle / \tau}}
              {\sum_{k \ne i} e^{\langle z_i, z_k\rangle / \tau}}

    The logits are symmetric, so only the tiles on and above the diagonal are computed: half the products of a loss that
    takes the whole matrix, and none of it is held.

    Args:
        first: (b, d) embeddings of one view of each item, unit rows, float32 / bf16 / fp16.
        second: (b, d) embeddings of the other view.
        temperature: () or (1,), > 0; may carry gradient.
        tile_size: rows and columns of a tile; None: what is quick on the device.

    Returns:
        () float32, never negative. A single item has no negative: 0.

    Raises:
        ShapeError: shapes differ, the batch is empty, or the temperature is not one positive number.

    Source: Chen et al. 2020 (arXiv:2002.05709) eq. 1. Rows are taken as unit vectors, not normalised here.

    ``info_nce`` leaves the candidates within a view out; ``dcl`` leaves the positive out of the denominator;
    ``sup_con`` with one label an item is this loss.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(nt_xent(x, x)) < float(nt_xent(x, x.roll(1, 0)))
        True
    """
    found = view_statistics(first, second, temperature, tile_size=tile_size)
    return -F.logsigmoid(found.positives - found.negatives).mean()


def view_statistics(
    first: Tensor, second: Tensor, temperature: Tensor | float, *, tile_size: int | None
) -> RowStatistics:
    """Statistics of all 2b views against all others, the item's other view being the positive.

    Raises:
        ShapeError: see ``nt_xent``.
    """
    check_pair(first, second, names=("first", "second"))
    scale = 1 / positive_number("temperature", temperature, first, meaning="similarities are divided by it")
    views = torch.cat([first, second])  # (2b, d)
    count = len(first)
    order = torch.arange(2 * count, device=first.device)
    candidates = Candidates(first.device, own=(order + count) % (2 * count), itself=slice(0, 2 * count))
    sweep = Sweep(symmetric=True, tile_size=tile_size)
    return row_statistics(views, views, scale, None, candidates, sweep)[0]
