"""Sharpness-aware minimization: the gradient where the loss is worst nearby, not where the weights stand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl.batch import Batch
from mmcl.training.batch_norms import BatchNorms
from mmcl.training.checkpoint import random_state, set_random_state
from mmcl.training.gradients import Gradients


class SharpnessAware:
    """Leaves the gradient at ``w + rho * g / ||g||`` in every parameter, g being the gradient at w.

    1. The gradient g of the whole batch, of all processes, by ``inner``; the random state before is kept.
    2. Every weight that trains moves by ``rho * g / ||g||``, one norm over all of them.
    3. The gradient there, from the same random state: dropout masks are those of step 1.
    4. The weights move back, bit for bit; what is clipped and applied is the gradient of step 3.

    It costs two forward and backward passes and a copy of the weights. The loss told is that of step 1; running
    statistics of batch norms move in step 1 alone. Where g is not finite, or is zero, it is left as it is. Source:
    Foret et al. 2021 (arXiv:2010.01412), equations 2 and 3, p = 2. Deviation: on several processes g is that of the
    whole batch (the paper's own runs take each device's, "m-sharpness"): the run is that of one process.

    Args:
        inner: makes the gradients of a batch.
        module: whose batch norms are kept still in step 3.
        rho: radius of the neighbourhood, above 0.
    """

    def __init__(self, inner: Gradients, module: nn.Module, *, rho: float) -> None:
        self._inner, self._module, self._rho = inner, module, rho
        self._parameters: list[nn.Parameter] = []
        self._norms = BatchNorms(module)

    @property
    def size(self) -> int | None:
        """See ``Gradients``."""
        return self._inner.size

    @size.setter
    def size(self, value: int | None) -> None:
        self._inner.size = value

    def prepare(self, parameters: list[nn.Parameter]) -> None:
        """See ``Gradients``."""
        self._parameters, self._norms = parameters, BatchNorms(self._module)
        self._inner.prepare(parameters)

    def __call__(self, batch: Batch, sizes: list[int]) -> dict[str, Tensor]:
        """See ``Gradients``."""
        before = random_state()
        terms = self._inner(batch, sizes)
        moved = [parameter for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in moved])
        if not (torch.isfinite(norm) and norm > 0):
            return terms
        own = [parameter.detach().clone() for parameter in moved]
        try:
            with torch.no_grad():
                for parameter in moved:
                    parameter.add_(parameter.grad * (self._rho / norm))
                    parameter.grad = None
            set_random_state(before)
            with self._norms.uncounted():
                self._inner(batch, sizes)
        finally:
            with torch.no_grad():
                for parameter, value in zip(moved, own):
                    parameter.copy_(value)
        return terms
