"""`DualEncoder`: an image and a text encoder that meet in one space, with a learnable scale."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmcl.config import ModelSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder, build_encoder


class DualEncoder(nn.Module):
    """Image and text encoders with the scale (and bias) that turn their scores into logits.

    ``logits = logit_scale * scores + logit_bias``. The scale is learnt as its logarithm, starts at 1/0.07 and is kept
    at or below 100. Source: Radford et al. 2021 (arXiv:2103.00020), section 2.5; the bias: Zhai et al. 2023
    (arXiv:2303.15343), section 3. The parameter has shape (1,), not (), because sharding wants a dimension.

    Args:
        image, text: the two encoders; their embeddings must have one size.
        embedding_dim: that size.
        logit_scale: start of the scale, > 0.
        logit_scale_max: its ceiling.
        logit_scale_learnable: false keeps it where it starts.
        logit_bias: start of a learnable bias; None for no bias.

    Raises:
        ConfigError: logit_scale is not positive, or above its ceiling.
    """

    def __init__(
        self,
        image: Encoder,
        text: Encoder,
        *,
        embedding_dim: int,
        logit_scale: float = 1 / 0.07,
        logit_scale_max: float = 100.0,
        logit_scale_learnable: bool = True,
        logit_bias: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < logit_scale <= logit_scale_max * (1 + 1e-6):
            raise ConfigError(f"model.logit_scale is {logit_scale}; want 0 < logit_scale <= {logit_scale_max}")
        self.image, self.text, self.embedding_dim = image, text, embedding_dim
        self.logit_scale_max = logit_scale_max
        self.log_logit_scale = nn.Parameter(torch.tensor([math.log(logit_scale)]), requires_grad=logit_scale_learnable)
        self.logit_bias = None if logit_bias is None else nn.Parameter(torch.tensor([float(logit_bias)]))

    @property
    def logit_scale(self) -> Tensor:
        """(1,) the factor from scores to logits, with gradient."""
        return self.log_logit_scale.exp()

    def encode_image(self, **inputs: Tensor) -> Tensor:
        """``pixel_values`` (b, 3, h, w), or ``features`` (b, f) -> embeddings (b, d), unit rows."""
        return self.image(**inputs)

    def encode_text(self, **inputs: Tensor) -> Tensor:
        """``input_ids`` and ``attention_mask`` (b, t), or ``features`` (b, f) -> embeddings (b, d), unit rows."""
        return self.text(**inputs)

    def encoder(self, modality: str) -> Encoder:
        """The encoder of ``"image"`` or ``"text"``."""
        return {"image": self.image, "text": self.text}[modality]

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Bring the scale back to its ceiling after an optimizer step."""
        self.log_logit_scale.clamp_(max=math.log(self.logit_scale_max))

    def num_parameters(self, *, trainable: bool = False) -> int:
        """How many values the model holds, or trains."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not trainable)


def build_dual_encoder(section: ModelSection, *, captions: Iterable[str] = ()) -> DualEncoder:
    """Build the model that a recipe's ``model`` section describes.

    Args:
        section: the recipe's section.
        captions: the training captions; a tiny text tower makes its vocabulary of them.

    Raises:
        ConfigError: a tower cannot be built, or sizes do not agree.

    Example:
        >>> model = build_dual_encoder(ModelSection(), captions=["a red circle"])
        >>> model.embedding_dim
        256
    """
    return DualEncoder(
        build_encoder(section.image, "image", section.embedding_dim),
        build_encoder(section.text, "text", section.embedding_dim, captions=captions),
        embedding_dim=section.embedding_dim,
        logit_scale=section.logit_scale,
        logit_scale_max=section.logit_scale_max,
        logit_scale_learnable=section.logit_scale_learnable,
        logit_bias=section.logit_bias,
    )
