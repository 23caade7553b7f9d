"""Running statistics of batch norms, estimated anew for averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmcl.data.images.decoding import to_image_tensor
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms of a model that keep running statistics."""
    norms = nn.modules.batchnorm._BatchNorm
    return [part for part in model.modules() if isinstance(part, norms) and part.track_running_stats]


@torch.no_grad()
def reestimate_batch_norm(
    model: DualEncoder, images: Sequence[Any], texts: Sequence[str] = (), *, batch_size: int = 64
) -> None:
    """Replace the running mean and variance of every batch norm by those of some data, in place.

    The mean of two models' statistics is not that of the averaged model's activations: those are computed here, each
    batch counting alike. Dropout and everything else stays in evaluation mode. Source: Izmailov et al. 2018
    (arXiv:1803.05407), section 3.2, for averaged weights. A batch of one is left out: it has no variance.

    Args:
        model: left in evaluation mode; a side without batch norm is not run.
        images: as ``Embedder.embed`` takes them; training data, a few hundred or more.
        texts: captions, for a text side with batch norm.
        batch_size: items a forward pass.

    Raises:
        ConfigError: the model has no batch norm, or there are fewer than two items for a side that has.

    Example:
        >>> reestimate_batch_norm(merged, train_images[:1000])  # doctest: +SKIP
    """
    sides = {"image": images, "text": texts}
    found = {side: batch_norms(model.encoder(side)) for side in sides}
    if not any(found.values()):
        raise ConfigError("the model has no batch norm whose statistics could be estimated; leave that out")
    model.eval()
    for side, norms in found.items():
        if not norms:
            continue
        if len(sides[side]) < 2:
            raise ConfigError(f"{len(sides[side])} {side}s are given to estimate statistics from; want at least 2")
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
            norm.train()
        _run(model, side, sides[side], batch_size)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.eval()


def _run(model: DualEncoder, side: str, items: Sequence[Any], batch_size: int) -> None:
    encoder = model.encoder(side)
    device = next(encoder.parameters()).device
    for start in range(0, len(items), batch_size):
        batch = list(items[start : start + batch_size])
        if len(batch) < 2:
            return
        prepared = [to_image_tensor(item) for item in batch] if side == "image" else batch
        inputs = encoder.tower.preprocessing(prepared)
        encoder(**{name: value.to(device) for name, value in inputs.items()})
