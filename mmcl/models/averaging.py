"""What all averages of weights share: which weights, and how they stand in for the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class AveragedWeights:
    """Averages of a model's weights by name, over parameters that train and floating buffers.

    Attributes:
        average: the averages so far.
        step: updates so far.
    """

    def __init__(self) -> None:
        self.step = 0
        self.average: dict[str, Tensor] = {}

    @staticmethod
    def _tracked(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                yield name, parameter
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                yield name, buffer

    def update(self, model: nn.Module) -> None:
        """Take the model's present weights in; called after every step."""
        raise NotImplementedError

    @contextmanager
    def swapped_in(self, model: nn.Module) -> Iterator[None]:
        """Within the block, the model holds the averaged weights; its own where there are none yet."""
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
