"""Gradient caching: the gradients of a whole batch for the memory of a small one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmcl.batch import EMBEDDED, SHARED, Batch, Embeddings, join_embeddings
from mmcl.errors import ConfigError, TrainingError
from mmcl.logs import get_logger
from mmcl.memory import is_out_of_memory, release_memory
from mmcl.training.batch_norms import BatchNorms
from mmcl.training.checkpoint import random_state, set_random_state
from mmcl.training.gather import (
    average_gradients,
    broadcast_state,
    gather_embeddings,
    gather_integers,
    process_weight,
)
from mmcl.training.gradients import backward, first_line
from mmcl.training.memory import rows_that_fit
from mmcl.training.protocols import Objective

log = get_logger(__name__)


class MicroBatches:
    """Gradients of a whole batch, of which at most ``size`` rows go through the encoders at once.

    1. Embed each micro-batch without gradient; the random state before each is kept.
    2. The loss of all embeddings together, of all processes; its gradient with respect to them.
    3. Embed each micro-batch again, from the same random state, and send its part of that gradient back.

    Sums of gradients do not depend on how rows are cut, so this is the plain step, exactly: every row meets every
    other, dropout masks are the same in both passes. The peak is one micro-batch's activations beside all embeddings.
    The last micro-batch's graph is kept from the first pass: it is embedded once. Processes average their gradients
    once, after the last backward pass, whatever number of micro-batches each has.

    Only torch's generators are brought back; encoders must draw from no other. A batch norm's statistics are those of
    each micro-batch, and its running ones move as far in a step as with one batch.

    Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
    (arXiv:2101.06983), section 3. Deviations: the kept graph; parameters that only the loss uses get their gradient
    in step 2.

    Args:
        objective: on the device.
        accelerator: device, precision and processes.
        size: rows at once on one process; ``"auto"``: as many as fit, and half as many whenever memory runs out.
        share: most rows a process has in any batch.

    Attributes:
        size: rows at once; None until ``"auto"`` has met its first batch. May be set before the first step.

    Raises:
        ConfigError: ``size`` is too small for a batch norm.
    """

    def __init__(self, objective: Objective, accelerator: Accelerator, *, size: int | str, share: int) -> None:
        self._objective, self._accelerator, self._share = objective, accelerator, share
        self._automatic = size == "auto"
        self.size: int | None = None if self._automatic else size
        self._parameters: list[nn.Parameter] = []
        self._measured = self._prepared = self._warned = False
        self._complaint = ""
        self._find_norms()

    def prepare(self, parameters: list[nn.Parameter]) -> None:
        """See ``Gradients``."""
        if not self._prepared:
            broadcast_state(self._objective)
        # What was measured holds until more of the model trains; a size that a resumed run brings stands.
        self._measured = not self._automatic or (not self._prepared and self.size is not None)
        self._prepared, self._parameters = True, parameters
        self._find_norms()

    def __call__(self, batch: Batch, sizes: list[int]) -> dict[str, Tensor]:
        """See ``Gradients``.

        Raises:
            TrainingError: memory ran out, and there is nothing smaller to try.
        """
        before, statistics = random_state(), self._norms.statistics()
        if not self._measured:
            self._measure(batch)
            set_random_state(before)
        while True:
            terms = self._attempt(batch, sizes)
            if terms is not None:
                self._warn_of_batch_norm(sizes)
                average_gradients(self._parameters)
                return terms
            # The step is made again from where it began.
            for parameter in self._parameters:
                parameter.grad = None
            release_memory()
            self._halve(max(sizes))
            set_random_state(before)
            self._norms.restore(statistics)

    # -- one attempt ---------------------------------------------------------------------------------------------

    def _attempt(self, batch: Batch, sizes: list[int]) -> dict[str, Tensor] | None:
        """The loss's terms, with all gradients in place; None where some process's memory ran out.

        Processes talk to one another between what may fail, never within it: one that fails leaves none waiting.
        """
        attempt = _Attempt(self._embed, batch.split(self.size), self._norms)
        if not self._all_can(attempt.embed):
            return None
        attempt.gather(sizes)

        def judge() -> None:
            attempt.terms = self._objective.loss(attempt.embeddings)
            backward(attempt.terms["loss"] * process_weight(sizes), self._accelerator)

        if not self._all_can(judge):
            return None
        attempt.return_gradients()
        if not self._all_can(attempt.embed_again):
            return None
        return {name: value.detach() for name, value in attempt.terms.items()}

    def _embed(self, batch: Batch) -> Embeddings:
        # A context of its own for each: autocast keeps the weights it has cast, without gradient in the first pass.
        with self._accelerator.autocast():
            return self._objective(batch.to(self._accelerator.device))

    def _all_can(self, work: Callable[[], None]) -> bool:
        """Do this process's work; whether no process ran out of memory at it."""
        self._complaint = ""
        try:
            work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._complaint = first_line(error) or type(error).__name__
        failed = gather_integers([bool(self._complaint)], self._accelerator.device)
        return not any(flag for (flag,) in failed)

    # -- sizes ---------------------------------------------------------------------------------------------------

    def _measure(self, batch: Batch) -> None:
        """The whole share at first; on a CPU, the first of its halves that free memory seems to hold."""
        self._measured = True
        size = before = self._share if self.size is None else self.size
        if self._accelerator.device.type == "cpu":
            # Of each trained weight there will be a gradient and, with most optimizers, two moments.
            reserved = 3 * sum(parameter.nbytes for parameter in self._parameters)
            fits = size  # where even the probe fails, errors are honest, and halving finds the size

            def probe() -> None:
                nonlocal fits
                with self._norms.uncounted():
                    fits = rows_that_fit(self._embed, batch, reserved=reserved)

            self._all_can(probe)
            while size > max(fits, self._fewest):
                size = -(-size // 2)
        size = min(size for (size,) in gather_integers([size], self._accelerator.device))
        if self.size is None or size != before:
            log.info("train.micro_batch_size=auto: %d of a process's %d pairs at once", size, self._share)
        self.size = size

    @property
    def _fewest(self) -> int:
        return BatchNorms.FEWEST_ROWS if self._norms else 1

    def _halve(self, rows: int) -> None:
        tried = min(self.size, rows)
        what = self._complaint or "another process said so"
        if not self._automatic:
            raise TrainingError(
                f"memory ran out with train.micro_batch_size={self.size}; set a smaller one, or auto. {what}"
            )
        if tried <= self._fewest:
            raise TrainingError(
                f"memory ran out with {tried} pair(s) at once; use train.gradient_checkpointing=true, smaller towers "
                f"or a smaller train.batch_size. {what}"
            )
        self.size = -(-tried // 2)
        log.warning("memory ran out with %d pairs at once: the step is made again with %d. %s", tried, self.size, what)

    # -- batch norm ----------------------------------------------------------------------------------------------

    def _find_norms(self) -> None:
        self._norms = BatchNorms(self._objective)
        if not self._automatic and self.size < min(self._fewest, self._share):
            raise ConfigError(
                f"train.micro_batch_size is {self.size}, and the model has a batch norm, which averages over the rows "
                f"of a micro-batch; want {self._fewest} or more, or another norm"
            )

    def _warn_of_batch_norm(self, sizes: list[int]) -> None:
        if self._norms and not self._warned and max(sizes) > self.size:
            self._warned = True
            log.warning(
                "batch norm sees the %d rows of a micro-batch at a time: the run differs from one with "
                "train.micro_batch_size=null",
                self.size,
            )


class _Attempt:
    """One attempt at a batch, in the stages between which processes agree."""

    def __init__(self, embed: Callable[[Batch], Embeddings], pieces: list[Batch], norms: BatchNorms) -> None:
        self._embed, self._pieces, self._norms = embed, pieces, norms
        self._random: list[dict[str, Tensor]] = []
        self._lengths: dict[str, list[int]] = {}
        self._kept: Embeddings | None = None
        self._gathered: Embeddings | None = None
        self.terms: dict[str, Tensor] = {}

    def embed(self) -> None:
        """First pass: the embeddings, of which the last piece's alone keep their history."""
        parts = []
        for piece in self._pieces:
            self._random.append(random_state())
            last = piece is self._pieces[-1]
            counting = self._norms.counted(len(self._pieces)) if last else self._norms.uncounted()
            with torch.set_grad_enabled(last), counting:
                parts.append(self._embed(piece))
        self._kept = parts[-1]
        for name in EMBEDDED:
            column = [getattr(part, name) for part in parts]
            self._lengths[name] = [0 if rows is None else len(rows) for rows in column]
        self.embeddings = join_embeddings(parts).leaves()

    def gather(self, sizes: list[int]) -> None:
        """Bring the other processes' embeddings, cut from their history so that the loss's backward pass is local."""
        self._gathered = gather_embeddings(self.embeddings, sizes).gathered
        if self._gathered is not None:
            cut = self._gathered.leaves()
            cut.logit_scale, cut.logit_bias = self.embeddings.logit_scale, self.embeddings.logit_bias
            self.embeddings.gathered = cut

    def return_gradients(self) -> None:
        """Send every process what this one's loss wants of its rows."""
        if self._gathered is None:
            return
        cut = self.embeddings.gathered
        names = [name for name in EMBEDDED if getattr(cut, name) is not None]
        wanted = [getattr(cut, name) for name in names]
        # A collective for each: what this process's loss does not use is zero, not left out.
        gradients = [torch.zeros_like(rows) if rows.grad is None else rows.grad for rows in wanted]
        torch.autograd.backward([getattr(self._gathered, name) for name in names], gradients)

    def embed_again(self) -> None:
        """Second pass: each piece's part of the gradient, back through the encoders."""
        after = random_state()
        self._send_back(len(self._pieces) - 1, self._kept, SHARED)
        self._kept = None
        for number, piece in enumerate(self._pieces[:-1]):
            set_random_state(self._random[number])
            with self._norms.counted(len(self._pieces)):
                embeddings = self._embed(piece)
            self._send_back(number, embeddings, ())
            del embeddings  # before the next piece's are made
        set_random_state(after)

    def _send_back(self, number: int, embeddings: Embeddings, shared: tuple[str, ...]) -> None:
        tensors, gradients = [], []
        for name in (*EMBEDDED, *shared):
            tensor, leaf = getattr(embeddings, name), getattr(self.embeddings, name)
            if tensor is None or not tensor.requires_grad or leaf.grad is None:
                continue
            tensors.append(tensor)
            gradients.append(leaf.grad if name in shared else leaf.grad.split(self._lengths[name])[number])
        if tensors:
            torch.autograd.backward(tensors, gradients)
