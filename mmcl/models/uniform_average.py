"""Uniform average of a model's weights over the end of a run."""

from __future__ import annotations

import torch
from torch import nn

from mmcl.models.averaging import AveragedWeights


class UniformAverage(AveragedWeights):
    """The mean of the weights behind every step from one on: ``average += (weight - average) / n`` at the n-th.

    Until then the model's own weights stand. Source: Izmailov et al. 2018 (arXiv:1803.05407), algorithm 1, and
    Sanyal et al. 2023 (arXiv:2306.03241) and Kaddour 2022 (arXiv:2209.14981) for averages late in a decaying schedule.
    Deviations: every step counts, not one a cycle or an epoch; running statistics of batch norms are averaged with the
    weights rather than estimated anew.

    Args:
        first_step: the number, from 1, of the first step whose weights count.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> average = UniformAverage(first_step=2)
        >>> for value in (9.0, 1.0, 3.0):
        ...     _ = layer.weight.data.fill_(value)
        ...     average.update(layer)
        >>> float(average.average["weight"])
        2.0
    """

    def __init__(self, first_step: int) -> None:
        super().__init__()
        self.first_step = first_step

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights in; weights thawed since join as they are."""
        self.step += 1
        count = self.step - self.first_step + 1
        if count < 1:
            return
        for name, tensor in self._tracked(model):
            if name in self.average:  # a checkpoint's averages come on the CPU
                self.average[name] = self.average[name].to(tensor.device).lerp_(tensor, 1 / count)
            else:
                self.average[name] = tensor.detach().clone()
