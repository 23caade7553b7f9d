"""Exponential moving average of a model's weights."""

from __future__ import annotations

import torch
from torch import nn

from mmcl.models.averaging import AveragedWeights


class ExponentialMovingAverage(AveragedWeights):
    """``average = decay * average + (1 - decay) * weight`` after every step, over parameters and floating buffers.

    The decay is warmed up as ``min(decay, (1 + step) / (10 + step))``, so that a short run is not held at its random
    start (Tarvainen & Valpola 2017, arXiv:1703.01780; the warm-up as in TensorFlow's ExponentialMovingAverage).

    Args:
        model: whose weights are averaged; frozen weights are left out.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.average = {name: tensor.detach().clone() for name, tensor in self._tracked(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights in; weights thawed since join as they are."""
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, tensor in self._tracked(model):
            if name in self.average:  # a checkpoint's averages come on the CPU
                self.average[name] = self.average[name].to(tensor.device).lerp_(tensor, 1 - decay)
            else:
                self.average[name] = tensor.detach().clone()
