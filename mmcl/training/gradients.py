"""How the gradients of a batch are made: here on the whole batch at once, in ``grad_cache`` piece by piece."""

from __future__ import annotations

from typing import Protocol

from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmcl.batch import Batch
from mmcl.errors import TrainingError
from mmcl.memory import is_out_of_memory
from mmcl.training.gather import gather_embeddings, process_weight, world_size
from mmcl.training.protocols import Objective


class Gradients(Protocol):
    """Leaves the gradient of the mean loss over all rows of all processes in every parameter.

    Attributes:
        size: most pairs that go through the encoders at once; None where no one has asked.
    """

    size: int | None

    def prepare(self, parameters: list[nn.Parameter]) -> None:
        """Called before the first step, and whenever what trains has changed."""

    def __call__(self, batch: Batch, sizes: list[int]) -> dict[str, Tensor]:
        """This process's part of a batch, and every process's rows -> the loss's terms, without gradient."""


class WholeBatch:
    """One forward pass over a process's whole part of the batch, one backward pass.

    Args:
        objective: on the device.
        accelerator: device, precision and processes.
    """

    size: int | None = None

    def __init__(self, objective: Objective, accelerator: Accelerator) -> None:
        self._objective, self._accelerator = objective, accelerator
        self._wrapped: nn.Module | None = None

    def prepare(self, parameters: list[nn.Parameter]) -> None:
        """Wrap for data parallelism, anew whenever what trains has changed."""
        self._wrapped = None  # the wrapper before takes its hooks off the parameters when it goes
        if world_size() == 1:
            self._wrapped = self._objective
            return
        device = self._accelerator.device
        # Buffers are not sent at every step: a queue is large, and the same everywhere; batch norms the trainer shares.
        self._wrapped = DistributedDataParallel(
            self._objective, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )

    def __call__(self, batch: Batch, sizes: list[int]) -> dict[str, Tensor]:
        """See ``Gradients``.

        Raises:
            TrainingError: memory ran out.
        """
        try:
            with self._accelerator.autocast():
                embeddings = self._wrapped(batch.to(self._accelerator.device))
            terms = self._objective.loss(gather_embeddings(embeddings, sizes))
            backward(terms["loss"] * process_weight(sizes), self._accelerator)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"memory ran out with {len(batch)} pairs at once on this process; set train.micro_batch_size=auto (the "
                f"same gradients, in pieces that fit). {first_line(error)}"
            ) from error
        return {name: value.detach() for name, value in terms.items()}


def backward(loss: Tensor, accelerator: Accelerator) -> None:
    """The backward pass, of the scaled loss under fp16.

    Not ``accelerator.backward``: that divides by an accumulation the launcher may ask for, and none is done here.
    """
    (loss if accelerator.scaler is None else accelerator.scaler.scale(loss)).backward()


def first_line(error: BaseException) -> str:
    """What an error says, without the traces that some libraries append."""
    return str(error).strip().partition("\n")[0]
