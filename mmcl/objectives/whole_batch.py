"""Losses that know two sets of rows and no processes, called as `ImageTextObjective` calls its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from mmcl.batch import Embeddings


class PairLoss(Protocol):
    """What an objective calls: see ``ImageTextObjective``."""

    def __call__(self, image: Tensor, text: Tensor, logit_scale: Tensor, **options: Any) -> Tensor: ...


def on_whole_batch(
    loss: Callable[..., Tensor],
    *,
    takes_temperature: bool = False,
    takes_groups: bool = False,
    unit_variance: bool = False,
) -> PairLoss:
    """Call a loss of two sets of rows on the pairs of all processes.

    Every process computes the same value. With the trainer's weight, rows here over rows in all times the number of
    processes, a gather whose backward sums over processes and gradients averaged over them, all gradients are those of
    one process with the whole batch.

    Args:
        loss: ``loss(image, text, **options) -> ()``.
        takes_temperature: whether it has an option ``temperature``, which gets one over the scale; otherwise the scale
            does not learn.
        takes_groups: whether it has an option ``group_ids``.
        unit_variance: multiply embeddings by the root of their size: unit rows, whose values have the mean square 1/d,
            get that of 1, which losses on a projector's features count on.

    Returns:
        The loss as an objective calls it; a bias is taken and has no effect.
    """

    def call(
        image: Tensor,
        text: Tensor,
        logit_scale: Tensor,
        *,
        logit_bias: Tensor | None = None,
        group_ids: Tensor | None = None,
        gathered: Embeddings | None = None,
        offset: int = 0,
        **options: Any,
    ) -> Tensor:
        if gathered is not None:
            image, text = gathered.image, gathered.text
            group_ids = None if group_ids is None else gathered.group_ids
        if unit_variance:
            image, text = image * image.shape[1] ** 0.5, text * text.shape[1] ** 0.5
        if takes_groups:
            options["group_ids"] = group_ids
        if takes_temperature:
            options["temperature"] = 1 / logit_scale
        value = loss(image, text, **options)
        # Data parallelism waits for a gradient of all that trains: what the loss does not use gets one of 0.
        idle = [logit_bias] if takes_temperature else [logit_scale, logit_bias]
        return value + sum(0 * tensor.sum() for tensor in idle if tensor is not None)

    return call
