"""Symmetric InfoNCE over image-text pairs, with several positives per row and label smoothing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.errors import ShapeError


def info_nce(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor | float,
    *,
    logit_bias: Tensor | None = None,
    group_ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    gathered: Embeddings | None = None,
    offset: int = 0,
) -> Tensor:
    r"""Mean of the image-to-text and text-to-image cross-entropies of a batch of pairs.

    With logits :math:`z_{ij} = s\,\langle x_i, y_j\rangle + b` and positives :math:`P(i)` (row i's own pair and all of
    its group),

    .. math:: L = \frac{1}{2b} \sum_i \Big( -\frac{1}{|P(i)|} \sum_{p \in P(i)} \log \frac{e^{z_{ip}}}{\sum_j e^{z_{ij}}}
              \;+\; \text{the same on } z^\top \Big)

    Args:
        image: (b, d) embeddings, unit rows, float32 / bf16 / fp16; the loss is computed in float32.
        text: (b, d); row i belongs with image i.
        logit_scale: () or (1,), > 0: one over the temperature.
        logit_bias: () or (1,); softmax cancels it, so it gets no gradient here. Taken so that a model with a bias fits.
        group_ids: (b,) int64; equal ids are positives of one another. None: the own pair alone.
        label_smoothing: in [0, 1): this share of each target is spread evenly over all candidates.
        gathered: the embeddings of all processes, this one's among them; rows of this process are then judged against
            all of them. None: against themselves.
        offset: where this process's rows start in ``gathered``.

    Returns:
        () float32: the mean over the rows given. One row without further candidates has nothing to tell apart: 0.

    Raises:
        ShapeError: shapes differ, the batch is empty, logit_scale is not one positive number, or group_ids do not fit.

    Source: van den Oord et al. 2018 (arXiv:1807.03748) eq. 4; symmetric form: Radford et al. 2021 (arXiv:2103.00020)
    fig. 3; several positives averaged outside the logarithm: Khosla et al. 2020 (arXiv:2004.11362) eq. 2.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(info_nce(x, x, 100.0)) < 1e-6 < float(info_nce(x, x.roll(1, 0), 100.0))
        True
    """
    _check(image, text, group_ids, label_smoothing)
    scale = _positive_scale(logit_scale, image.device)
    bias = 0.0 if logit_bias is None else logit_bias.float().reshape(())
    image, text = image.float(), text.float()
    if gathered is None:
        logits = scale * (image @ text.T) + bias  # (b, b), shared by both directions
        image_to_text, text_to_image, all_groups = logits, logits.T, group_ids
    else:
        image_to_text = scale * (image @ gathered.text.float().T) + bias  # (b, n)
        text_to_image = scale * (text @ gathered.image.float().T) + bias
        all_groups = gathered.group_ids if group_ids is not None else None
    positives = _positives(group_ids, all_groups, offset)
    if positives is None:
        targets = torch.arange(offset, offset + len(image), device=image.device)
        return sum(F.cross_entropy(z, targets, label_smoothing=label_smoothing) for z in (image_to_text, text_to_image)) / 2
    return sum(_soft_cross_entropy(z, positives, label_smoothing) for z in (image_to_text, text_to_image)) / 2


def _check(image: Tensor, text: Tensor, group_ids: Tensor | None, label_smoothing: float) -> None:
    if image.ndim != 2 or image.shape != text.shape:
        raise ShapeError(
            f"image and text need equal shapes (b, d), got {tuple(image.shape)} and {tuple(text.shape)}; "
            f"pair the batch first"
        )
    if len(image) == 0:
        raise ShapeError("image and text hold no rows; a loss over an empty batch has no value")
    if group_ids is not None and group_ids.shape != image.shape[:1]:
        raise ShapeError(f"group_ids need shape ({len(image)},), got {tuple(group_ids.shape)}")
    if not 0 <= label_smoothing < 1:
        raise ShapeError(f"label_smoothing is {label_smoothing}; want 0 <= label_smoothing < 1")


def _positive_scale(logit_scale: Tensor | float, device: torch.device) -> Tensor:
    scale = torch.as_tensor(logit_scale, dtype=torch.float32, device=device)
    if scale.numel() != 1:
        raise ShapeError(f"logit_scale is one number, got shape {tuple(scale.shape)}")
    if not scale.detach().item() > 0:
        raise ShapeError(f"logit_scale is {scale.item()}; want > 0 (it is 1 / temperature)")
    return scale.reshape(())


def _positives(group_ids: Tensor | None, all_groups: Tensor | None, offset: int) -> Tensor | None:
    """(b, n) bool, or None where every row's own pair is its only positive."""
    if group_ids is None:
        return None
    positives = group_ids[:, None] == all_groups[None, :]
    # A row's own pair is always positive, whatever its ids say.
    own = torch.arange(len(group_ids), device=group_ids.device)
    positives[own, own + offset] = True
    return None if int(positives.sum()) == len(group_ids) else positives


def _soft_cross_entropy(logits: Tensor, positives: Tensor, label_smoothing: float) -> Tensor:
    log_probabilities = F.log_softmax(logits, dim=1)
    targets = positives / positives.sum(1, keepdim=True)
    if label_smoothing:
        targets = (1 - label_smoothing) * targets + label_smoothing / logits.shape[1]
    return -(targets * log_probabilities).sum(1).mean()
