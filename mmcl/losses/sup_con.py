"""Supervised contrastive loss: items of one label are positives of one another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ShapeError
from mmcl.losses.arguments import check_rows, positive_number
from mmcl.losses.candidates import Candidates
from mmcl.losses.row_statistics import Sweep, row_statistics


def sup_con(
    embeddings: Tensor, labels: Tensor, *, temperature: Tensor | float = 0.1, tile_size: int | None = None
) -> Tensor:
    r"""Mean over items of the cross-entropy of finding those of the same label among all others.

    With :math:`P(i)` the other items of i's label, over the items that have any,

    .. math:: L = \operatorname{mean}_i -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log
              \frac{e^{\langle z_i, z_p\rangle / \tau}}{\sum_{k \ne i} e^{\langle z_i, z_k\rangle / \tau}}

    Args:
        embeddings: (n, d) unit rows, float32 / bf16 / fp16; several views of an item are rows with its label.
        labels: (n,) integers.
        temperature: () or (1,), > 0; may carry gradient.
        tile_size: rows and columns of a tile; None: what is quick on the device.

    Returns:
        () float32, never negative. Items without a positive do not count; where no item has one: 0, with zero gradient.

    Raises:
        ShapeError: shapes do not fit, there are no items, or the temperature is not one positive number.

    Source: Khosla et al. 2020 (arXiv:2004.11362) eq. 2 (the outer sum, "out"), without their factor of temperature over
    base temperature; items without a positive are left out of the mean, where their code gives NaN.

    ``nt_xent`` is this with two views and a label an item; ``info_nce`` with ``group_ids`` is the same across
    modalities.

    Example:
        >>> import torch
        >>> x = torch.eye(2).repeat_interleave(2, 0)
        >>> same, torn = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> float(sup_con(x, same)) < float(sup_con(x, torn))
        True
    """
    if embeddings.ndim != 2 or len(embeddings) == 0:
        raise ShapeError(f"embeddings need shape (n, d) with n >= 1, got {tuple(embeddings.shape)}")
    check_rows("labels", labels, len(embeddings))
    scale = 1 / positive_number("temperature", temperature, embeddings, meaning="similarities are divided by it")
    everything = slice(0, len(embeddings))
    candidates = Candidates(embeddings.device, itself=everything, row_groups=labels, column_groups=labels)
    sweep = Sweep(symmetric=True, tile_size=tile_size)
    found, _ = row_statistics(embeddings, embeddings, scale, None, candidates, sweep)
    counted = found.num_positives > 0
    # Rows without a positive hold infinities, which must not meet the gradient.
    positives = torch.where(counted, found.positives, 0)
    negatives = torch.where(counted, found.negatives, -torch.inf)
    losses = found.spread - F.logsigmoid(positives - negatives)
    return (losses * counted).sum() / counted.sum().clamp(min=1)
