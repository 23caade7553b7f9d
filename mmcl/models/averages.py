"""A recipe's average of weights."""

from __future__ import annotations

import math

from torch import nn

from mmcl.config import TrainSection
from mmcl.logs import get_logger
from mmcl.models.averaging import AveragedWeights
from mmcl.models.ema import ExponentialMovingAverage
from mmcl.models.uniform_average import UniformAverage

log = get_logger(__name__)


def build_average(section: TrainSection, model: nn.Module, *, total_steps: int) -> AveragedWeights | None:
    """The average that ``train.ema`` or ``train.weight_average`` asks for; None where neither does.

    Args:
        section: the recipe's ``train``.
        model: whose weights are averaged, frozen as at the start.
        total_steps: of the run. The last step always counts.
    """
    if section.ema.enabled:
        return ExponentialMovingAverage(model, section.ema.decay)
    if not section.weight_average.enabled:
        return None
    if any(isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training for part in model.modules()):
        log.warning(
            "train.weight_average: running statistics of batch norms are averaged with the weights, not estimated anew "
            "(arXiv:1803.05407, section 3.2)"
        )
    return UniformAverage(min(total_steps, math.floor(section.weight_average.from_share * total_steps) + 1))
