"""Noisy data: captions that belong to other images, and what training does about them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmcl.config.section import Section


class NoiseSection(Section):
    """Which pairs a training trusts; off by default."""

    method: Literal["none", "small_loss", "mixture", "ema_agreement"] = Field(
        "none",
        description="small_loss: a share of the pairs, those of the largest losses, is left out (arXiv:1804.06872); "
        "mixture: two Gaussians over the losses say how likely a pair is right (arXiv:2002.07394); ema_agreement: the "
        "same over the losses of a moving average of the model, without dropout",
    )
    weighting: Literal["soft", "drop"] = Field(
        "soft", description="mixture, ema_agreement: pairs weigh as likely as they are right; drop: 1 from 0.5, else 0"
    )
    warmup_epochs: int = Field(
        6, ge=1, description="epochs in which all pairs count: what is right is learnt first (arXiv:1706.05394)"
    )
    share: float | None = Field(
        None, gt=0, lt=1, description="small_loss: share of pairs left out in the end; null: what the mixture estimates"
    )
    ramp_epochs: int = Field(5, ge=0, description="small_loss: epochs from the warm-up until all of share is left out")
    loss_momentum: float = Field(0.9, ge=0, lt=1, description="of the moving average of each pair's loss")
    ema_momentum: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="ema_agreement: of the average of the weights; with a queue, negatives.queue_momentum counts",
    )


# The methods that judge pairs by a moving average of the model.
METHODS_WITH_EMA = ("ema_agreement",)
