"""Batch norms where a batch goes through a model in pieces, and some of them twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch import distributed as dist

from mmcl.training.gather import world_size


class BatchNorms:
    """The batch norms of a module that are training; false where there are none.

    Args:
        module: looked through once.
    """

    FEWEST_ROWS = 4  # a batch norm needs some to average over

    def __init__(self, module: nn.Module) -> None:
        norms = (part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm))
        self._norms = [norm for norm in norms if norm.training]

    def __bool__(self) -> bool:
        return bool(self._norms)

    def _buffers(self) -> Iterator[Tensor]:
        return (buffer for norm in self._norms for buffer in norm.buffers())

    def statistics(self) -> list[Tensor]:
        """The running statistics, to be brought back by ``restore``."""
        return [buffer.clone() for buffer in self._buffers()]

    @torch.no_grad()
    def restore(self, statistics: list[Tensor]) -> None:
        """Bring ``statistics`` back."""
        for buffer, value in zip(self._buffers(), statistics):
            buffer.copy_(value)

    def share(self) -> None:
        """Give every process the main one's running statistics: what is saved is then what each goes on with."""
        if world_size() > 1:
            for buffer in self._buffers():
                dist.broadcast(buffer, src=0)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Within the block, running statistics stay as they are; batches are normalised by their own all the same."""
        before = [norm.track_running_stats for norm in self._norms]
        for norm in self._norms:
            norm.track_running_stats = False
        try:
            yield
        finally:
            for norm, value in zip(self._norms, before):
                norm.track_running_stats = value

    @contextlib.contextmanager
    def counted(self, pieces: int) -> Iterator[None]:
        """Within the block, running statistics move so far that all pieces together weigh as much as one batch.

        ``1 - (1 - momentum) ** (1 / pieces)`` for each.
        """
        before = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            if pieces > 1 and norm.momentum is not None:  # None: the mean of all batches seen
                norm.momentum = 1 - (1 - norm.momentum) ** (1 / pieces)
        try:
            yield
        finally:
            for norm, momentum in zip(self._norms, before):
                norm.momentum = momentum
