"""The image-text objective: two encoders, one contrastive loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.batch import Batch, Embeddings
from mmcl.models.dual_encoder import DualEncoder


class ImageTextObjective(nn.Module):
    """Embed both sides of a batch of pairs, and judge the pairs against one another.

    Args:
        model: the dual encoder.
        loss: ``loss(image, text, logit_scale, *, logit_bias, group_ids, gathered, offset, **loss_options) -> ()``.
        use_groups: whether rows of one group are positives of one another.
        loss_options: further keyword arguments of the loss.
    """

    def __init__(
        self, model: DualEncoder, loss: Callable[..., Tensor], *, use_groups: bool = True, **loss_options: Any
    ) -> None:
        super().__init__()
        self.model = model
        self._loss, self._use_groups, self._loss_options = loss, use_groups, loss_options

    def embed(self, batch: Batch) -> Embeddings:
        """Run the encoders: the only place where they run."""
        return Embeddings(
            image=self.model.encode_image(**batch.image),
            text=self.model.encode_text(**batch.text),
            group_ids=batch.group_ids,
            logit_scale=self.model.logit_scale,
            logit_bias=self.model.logit_bias,
        )

    # Data-parallel wrappers synchronise what goes through ``forward``.
    forward = embed

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """Judge embeddings; runs no encoder. ``{"loss": (), "logit_scale": ()}``."""
        value = self._loss(
            embeddings.image,
            embeddings.text,
            embeddings.logit_scale,
            logit_bias=embeddings.logit_bias,
            group_ids=embeddings.group_ids if self._use_groups else None,
            gathered=embeddings.gathered,
            offset=embeddings.offset,
            **self._loss_options,
        )
        return {"loss": value, "logit_scale": embeddings.logit_scale.detach().reshape(())}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the scale below its ceiling."""
        self.model.clamp_logit_scale()
