"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """``average = decay * average + (1 - decay) * weight`` after every step, over parameters and floating buffers.

    The decay is warmed up as ``min(decay, (1 + step) / (10 + step))``, so that a short run is not held at its random
    start (Tarvainen & Valpola 2017, arXiv:1703.01780; the warm-up as in TensorFlow's ExponentialMovingAverage).

    Args:
        model: whose weights are averaged; frozen weights are left out.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.step = decay, 0
        self.average = {name: tensor.detach().clone() for name, tensor in self._tracked(model)}

    @staticmethod
    def _tracked(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                yield name, buffer

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

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Within the block, the model holds the averaged weights."""
        own = {name: tensor.detach().clone() for name, tensor in self._tracked(model) if name in self.average}
        self._write(model, self.average)
        try:
            yield
        finally:
            self._write(model, own)

    @torch.no_grad()
    def _write(self, model: nn.Module, values: dict[str, Tensor]) -> None:
        for name, tensor in self._tracked(model):
            if name in values:
                tensor.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """The averages and the step count."""
        return {**self.average, "__step__": torch.tensor(self.step)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state_dict``."""
        state = dict(state)
        self.step = int(state.pop("__step__"))
        self.average = {name: tensor.clone() for name, tensor in state.items()}
