"""Decoupled contrastive learning: NT-Xent without the positive in its denominator."""

from __future__ import annotations

import torch
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses.nt_xent import view_statistics


def dcl(
    first: Tensor,
    second: Tensor,
    *,
    temperature: Tensor | float = 0.1,
    sigma: float | None = None,
    tile_size: int | None = None,
) -> Tensor:
    r"""How much nearer an item's other view is than all views of other items, without the positive among those.

    With :math:`z = [x_1 .. x_b, y_1 .. y_b]` and :math:`p(i)` the other view of i,

    .. math:: L = \frac{1}{2b} \sum_{i=1}^{2b} \Big( -w_i \langle z_i, z_{p(i)}\rangle / \tau
              + \log \sum_{k \notin \{i, p(i)\}} e^{\langle z_i, z_k\rangle / \tau} \Big)

    The gradient of a pair does not vanish while other pairs are easy, so small batches learn as well as large ones.

    Args:
        first: (b, d) embeddings of one view of each item (or of images), unit rows, float32 / bf16 / fp16.
        second: (b, d) embeddings of the other view (or of texts).
        temperature: () or (1,), > 0; may carry gradient.
        sigma: > 0: positives weigh :math:`w_i = 2 - e^{s_i / \sigma} / \operatorname{mean} e^{s / \sigma}`, without
            gradient (DCLW); None: 1.
        tile_size: rows and columns of a tile; None: what is quick on the device.

    Returns:
        () float32; it may be negative. A single item has no negative, and its loss would be minus infinity: an error.

    Raises:
        ShapeError: shapes differ, fewer than two items, or temperature or sigma is not positive.

    Source: Yeh et al. 2022 (arXiv:2110.06848) eq. 5, with both views' negatives as in their eq. 6; DCLW: eq. 7.

    ``nt_xent`` is softplus of each row's difference here; the two agree where the loss is large.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(dcl(x, x)) < float(dcl(x, x.roll(1, 0)))
        True
    """
    if first.ndim == 2 and len(first) == 1:
        raise ShapeError("first and second hold 1 item; without another there is no negative, give at least 2")
    if sigma is not None and not sigma > 0:
        raise ShapeError(f"sigma is {sigma}; want > 0, or None for no weights")
    found = view_statistics(first, second, temperature, tile_size=tile_size)
    positives = found.positives
    if sigma is not None:
        scores = torch.linalg.vecdot(*(view.detach().to(positives.dtype) for view in (first, second))) / sigma
        # exp of scores over their mean, through a softmax: nothing overflows.
        weights = 2 - torch.softmax(scores, 0) * len(first)
        positives = torch.cat([weights, weights]) * positives
    return (found.negatives - positives).mean()
