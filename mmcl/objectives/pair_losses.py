"""How badly each pair of a batch does alone: what noise handling judges pairs by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.losses.pair_batch import PairBatch
from mmcl.losses.row_statistics import Sweep, row_statistics


@torch.no_grad()
def pair_losses(image: Tensor, text: Tensor, logit_scale: Tensor | float, *, group_ids: Tensor | None = None) -> Tensor:
    r"""The mean of both directions' cross-entropies of each own pair, other positives left out.

    .. math:: \ell_i = \frac12 \Big( -\log \frac{e^{z_{ii}}}{e^{z_{ii}} + \sum_{j \in N(i)} e^{z_{ij}}} \;+\;
              \text{the same on } z^\top \Big)

    ``info_nce`` averages over all positives of a row, so there a wrong caption of one image of a group counts against
    the others too; here each pair answers for itself. Memory is O(b d + tile), as there.

    Args:
        image, text: (b, d) unit rows; row i belongs with row i.
        logit_scale: () or (1,), > 0.
        group_ids: (b,) int64; rows of one group are no negatives of one another.

    Returns:
        (b,) float32, >= 0, without gradient; 0 for a row without negatives.

    Raises:
        ShapeError: shapes do not fit, or there is no row.

    Example:
        >>> x = torch.eye(4)
        >>> found = pair_losses(x, x[[0, 1, 3, 2]], 20.0)
        >>> (found > 1).tolist()
        [False, False, True, True]
    """
    batch = PairBatch.of(
        image, text, logit_scale, None, group_ids=group_ids, positives=None, exclude_ids=None, gathered=None, offset=0,
        negative_text=None, negative_text_groups=None, negative_image=None, negative_image_groups=None,
    )  # fmt: skip
    forward = batch.image_to_text()
    sides = row_statistics(forward.rows, forward.columns, batch.scale, None, forward.candidates, Sweep(both=True))
    own = batch.own_logits()
    return -sum(F.logsigmoid(own - side.negatives) for side in sides).float() / 2
