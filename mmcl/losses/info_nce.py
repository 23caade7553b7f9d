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
    logit_bias: Tensor | float | None = None,
    group_ids: Tensor | None = None,
    label_smoothing: float = 0.0,
    gathered: Embeddings | None = None,
    offset: int = 0,
) -> Tensor:
    r"""Mean of the image-to-text and text-to-image cross-entropies of a batch of pairs.

    With logits :math:`z_{ij} = s\,\langle x_i, y_j\rangle + b` and positives :math:`P(i)` (row i's own pair and all of
    its group),

    .. math:: L = \frac{1}{2b} \sum_i \Big( -\frac{1}{|P(i)|} \sum_{p \in P(i)}
              \log \frac{e^{z_{ip}}}{\sum_j e^{z_{ij}}} \;+\; \text{the same on } z^\top \Big)

    Args:
        image: (b, d) embeddings, unit rows, float32 / bf16 / fp16; the loss is computed in float32.
        text: (b, d); row i belongs with image i.
        logit_scale: () or (1,), > 0: one over the temperature.
        logit_bias: () or (1,); softmax cancels it, so its gradient is 0. Taken so that a model with a bias fits.
        group_ids: (b,) int64; equal ids are positives of one another. None: the own pair alone.
        label_smoothing: in [0, 1): this share of each target is spread evenly over all candidates.
        gathered: the embeddings of all processes, this one's among them; rows of this process are then judged against
            all of them. None: against themselves.
        offset: where this process's rows start in ``gathered``.

    Returns:
        () float32: the mean over the rows given. One row without further candidates has nothing to tell apart: 0.

    Raises:
        ShapeError: shapes differ, the batch is empty, logit_scale is not one positive number, group_ids do not fit, or
            the rows are not among the gathered ones.

    Source: van den Oord et al. 2018 (arXiv:1807.03748) eq. 4; symmetric form: Radford et al. 2021 (arXiv:2103.00020)
    fig. 3; several positives averaged outside the logarithm: Khosla et al. 2020 (arXiv:2004.11362) eq. 2.

    Example:
        >>> import torch
        >>> x = torch.eye(4)
        >>> float(info_nce(x, x, 100.0)) < 1e-6 < float(info_nce(x, x.roll(1, 0), 100.0))
        True
    """
    _check(image, text, group_ids, label_smoothing)
    _check_gathered(image, group_ids, gathered, offset)
    scale = _one_number("logit_scale", logit_scale, image.device)
    if not float(scale.detach()) > 0:
        raise ShapeError(f"logit_scale is {float(scale.detach())}; want > 0 (it is 1 / temperature)")
    bias = 0.0 if logit_bias is None else _one_number("logit_bias", logit_bias, image.device)
    with torch.autocast(image.device.type, enabled=False):  # float32, wherever this is called
        image_to_text, text_to_image = _logits(image.float(), text.float(), scale, bias, gathered)
        positives = _positives(group_ids, group_ids if gathered is None else gathered.group_ids, offset)
        losses = [_cross_entropy(z, positives, offset, label_smoothing) for z in (image_to_text, text_to_image)]
    return sum(losses) / 2


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


def _check_gathered(image: Tensor, group_ids: Tensor | None, gathered: Embeddings | None, offset: int) -> None:
    if gathered is None:
        if offset != 0:
            raise ShapeError(f"offset is {offset}, but nothing is gathered; give gathered too, or leave offset out")
        return
    shape = gathered.image.shape
    if len(shape) != 2 or shape[1] != image.shape[1] or gathered.text.shape != shape:
        raise ShapeError(
            f"gathered.image and gathered.text need equal shapes (n, {image.shape[1]}), got {tuple(shape)} and "
            f"{tuple(gathered.text.shape)}"
        )
    if not 0 <= offset <= len(gathered.image) - len(image):
        raise ShapeError(f"offset is {offset}; {len(image)} rows from there are not among the {shape[0]} gathered ones")
    if group_ids is not None and gathered.group_ids.shape != shape[:1]:
        raise ShapeError(f"gathered.group_ids need shape ({shape[0]},), got {tuple(gathered.group_ids.shape)}")


def _one_number(name: str, value: Tensor | float, device: torch.device) -> Tensor:
    """() float32, with gradient where ``value`` has one."""
    number = torch.as_tensor(value, dtype=torch.float32, device=device)
    if number.numel() != 1:
        raise ShapeError(f"{name} is one number, got shape {tuple(number.shape)}")
    return number.reshape(())


def _logits(
    image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | float, gathered: Embeddings | None
) -> tuple[Tensor, Tensor]:
    """(b, n) of this process's images against all texts, and of its texts against all images."""
    if gathered is None:
        logits = scale * (image @ text.T) + bias  # shared by both directions
        return logits, logits.T
    return scale * (image @ gathered.text.float().T) + bias, scale * (text @ gathered.image.float().T) + bias


def _positives(group_ids: Tensor | None, all_groups: Tensor | None, offset: int) -> Tensor | None:
    """(b, n) bool, or None where every row's own pair is its only positive."""
    if group_ids is None:
        return None
    positives = group_ids[:, None] == all_groups[None, :]
    # A row's own pair is always positive, whatever its ids say.
    own = torch.arange(len(group_ids), device=group_ids.device)
    positives[own, own + offset] = True
    return None if int(positives.sum()) == len(group_ids) else positives


def _cross_entropy(logits: Tensor, positives: Tensor | None, offset: int, label_smoothing: float) -> Tensor:
    if positives is None:
        targets = torch.arange(offset, offset + len(logits), device=logits.device)
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    shares = positives / positives.sum(1, keepdim=True)  # (b, n)
    if label_smoothing:
        shares = (1 - label_smoothing) * shares + label_smoothing / logits.shape[1]
    return -(shares * F.log_softmax(logits, dim=1)).sum(1).mean()
