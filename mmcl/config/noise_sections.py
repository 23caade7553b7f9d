"""Noisy data: captions that belong to other images, and what training does about them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mmcl.config.section import Section


class NoiseSection(Section):
    """Which pairs a training trusts; off by default."""

    method: Literal["none", "small_loss", "mixture", "ema_agreement", "cross_fit"] = Field(
        "none",
        description="small_loss: a share of the pairs, those of the largest losses, is left out (arXiv:1804.06872); "
        "mixture: two Gaussians over the losses say how likely a pair is right (arXiv:2002.07394); ema_agreement: the "
        "same over the losses of a moving average of the model, without dropout; cross_fit: the same over losses under "
        "models that were trained on other folds of the data, before the training itself (arXiv:1911.00068)",
    )
    weighting: Literal["soft", "drop"] | None = Field(
        None,
        description="soft: pairs weigh as likely as they are right; drop: mixture, ema_agreement: 1 from 0.5, else 0; "
        "cross_fit: as many as are wrong are left out, those that fit worst; null: soft, and drop of cross_fit",
    )
    warmup_epochs: int = Field(
        6, ge=1, description="epochs in which all pairs count: what is right is learnt first (arXiv:1706.05394)"
    )
    share: float | None = Field(
        None, gt=0, lt=1, description="small_loss: share of pairs left out in the end; null: what the mixture estimates"
    )
    ramp_epochs: int = Field(5, ge=0, description="small_loss: epochs from the warm-up until all of share is left out")
    loss_momentum: float = Field(0.9, ge=0, lt=1, description="of the moving average of each pair's loss")
    folds: int = Field(4, ge=2, description="cross_fit: parts of the data, each judged by a model of the others")
    fold_share: float = Field(
        0.6, gt=0, le=1, description="cross_fit: share of the run's epochs that each model trains"
    )
    repair: bool = Field(
        True, description="cross_fit: a pair that is left out comes back with a trusted caption of its group, if any"
    )
    ema_momentum: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="ema_agreement: of the average of the weights; with a queue, negatives.queue_momentum counts",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_earlier_versions_wrote(cls, values: Any) -> Any:
        # The default of weighting was soft, and stands in the config of every run without a method.
        if isinstance(values, dict) and values.get("method") == "none" and values.get("weighting") == "soft":
            return {**values, "weighting": None}
        return values


# The methods that judge pairs by a moving average of the model.
METHODS_WITH_EMA = ("ema_agreement",)
