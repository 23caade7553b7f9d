"""Where a value that is not finite came from: the batch, a weight, a module's output, the loss, or a gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.batch import EMBEDDED, SHARED, Batch, Embeddings, join_embeddings
from mmcl.errors import MmclError


@dataclass(frozen=True)
class Source:
    """The first thing that was not finite.

    Attributes:
        kind: ``"input"``, ``"weight"``, ``"output"``, ``"loss"``, ``"gradient"`` or ``"unknown"``.
        name: of the input, parameter or module, as the objective names it; empty where the kind says all.
        inputs_finite: whether the batch's inputs were finite.
    """

    kind: str
    name: str
    inputs_finite: bool

    @property
    def sentence(self) -> str:
        """What is known, in one sentence."""
        inputs = "the batch's inputs are finite" if self.inputs_finite else "and so are inputs of the batch"
        return {
            "input": f"The batch's input {self.name} is not finite: look at these rows.",
            "weight": f"The weight {self.name} is not finite already; {inputs}.",
            "output": f"The output of the module {self.name} is the first that is not finite; {inputs}.",
            "loss": f"The embeddings are finite and the loss made of them is not; {inputs}.",
            "gradient": f"The gradient of {self.name} is the first that is not finite on the way back; {inputs}.",
            "unknown": f"A second pass over these rows was finite, so chance (dropout) or another process's rows "
            f"have a part in it; {inputs}.",
        }[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return dataclasses.asdict(self)


def find_source(
    objective: nn.Module,
    batch: Batch,
    *,
    size: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Source:
    """Run a batch once more, and name the first thing that is not finite.

    Looked for in this order: inputs, weights, outputs of modules as they run, the loss, gradients as they flow back.
    The loss is that of this batch alone, without the rows of other processes. Gradients in ``.grad`` and the running
    statistics of batch norms are changed: this is for a training that has ended.

    Args:
        objective: with ``loss``; on its device, not wrapped.
        batch: on the same device, at least one row.
        size: most rows at once; None: all.
        autocast: makes the context that the encoders run in.

    Returns:
        The source; of kind ``"unknown"`` where this pass was finite, or cannot be run.
    """
    inputs = _first_bad(_inputs(batch))
    if inputs is not None:
        return Source("input", inputs, False)
    # Of buffers the statistics of batch norms alone: a mask may well hold -inf.
    statistics = [(name, value) for name, value in objective.named_buffers() if "running_" in name]
    weights = _first_bad([*objective.named_parameters(), *statistics])
    if weights is not None:
        return Source("weight", weights, True)
    objective.zero_grad(set_to_none=True)
    pieces = batch.split(size or max(1, len(batch)))
    outputs, gradients = _Log(), _Log()
    with _watched(objective, outputs, gradients):
        try:
            kind, name = _rerun(objective, pieces, outputs, gradients, autocast)
        except (MmclError, RuntimeError, ValueError):  # what a loss refuses is not finite either, if nothing before is
            kind, name = ("output", outputs.first) if outputs.first is not None else ("unknown", "")
    return Source(kind, name, True)


class _Log:
    """The name of the first thing that was not finite."""

    def __init__(self) -> None:
        self.first: str | None = None

    def look(self, name: str, value: Any) -> None:
        if self.first is None and any(not tensor.isfinite().all() for tensor in _tensors(value)):
            self.first = name


def _rerun(
    objective: nn.Module,
    pieces: list[Batch],
    outputs: _Log,
    gradients: _Log,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[str, str]:
    """(kind, name) of the source; the backward pass goes piece by piece, as that of gradient caching does."""
    parts = []
    with torch.no_grad(), autocast():
        for piece in pieces:
            parts.append(objective(piece))
            if outputs.first is not None:
                return "output", outputs.first
    leaves = join_embeddings(parts).leaves()
    loss = objective.loss(leaves)["loss"]
    if not loss.isfinite().all():
        return "loss", ""
    loss.backward()
    wanted = {name: getattr(leaves, name).grad for name in (*EMBEDDED, *SHARED) if getattr(leaves, name) is not None}
    bad = _first_bad((name, gradient) for name, gradient in wanted.items() if gradient is not None)
    if bad is not None:
        return "gradient", f"the loss with respect to {bad}"
    start = dict.fromkeys(EMBEDDED, 0)
    for piece in pieces:
        with autocast():
            embeddings = objective(piece)
        _send_back(embeddings, wanted, start)
        if gradients.first is not None:
            return "gradient", f"the output of the module {gradients.first}"
        bad = _first_bad((name, p.grad) for name, p in objective.named_parameters() if p.grad is not None)
        if bad is not None:
            return "gradient", bad
    return "unknown", ""


def _send_back(embeddings: Embeddings, wanted: dict[str, Tensor | None], start: dict[str, int]) -> None:
    tensors, gradients = [], []
    for name in EMBEDDED:
        tensor, gradient = getattr(embeddings, name), wanted.get(name)
        if tensor is None or gradient is None:
            continue
        part = gradient[start[name] : start[name] + len(tensor)]
        start[name] += len(tensor)
        if tensor.requires_grad:
            tensors.append(tensor)
            gradients.append(part)
    if tensors:
        torch.autograd.backward(tensors, gradients)


@contextmanager
def _watched(objective: nn.Module, outputs: _Log, gradients: _Log) -> Iterator[None]:
    """Within it, modules tell of outputs and of gradients of outputs; innermost modules before those around them."""
    hooks = []

    def watch(name: str, module: nn.Module) -> None:
        def forward(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            outputs.look(name, output)
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: gradients.look(name, gradient))

        hooks.append(module.register_forward_hook(forward))

    for name, module in objective.named_modules():
        if name:
            watch(name, module)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _inputs(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    sides = {"image": batch.image, "text": batch.text}
    for name in ("negative_image", "negative_text"):
        if getattr(batch, name) is not None:
            sides[name] = getattr(batch, name).inputs
    for side, inputs in sides.items():
        yield from ((f"{side} {key}", value) for key, value in inputs.items())


def _first_bad(values: Any) -> str | None:
    return next(
        (name for name, value in values if value.is_floating_point() and not value.detach().isfinite().all()), None
    )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating tensors within a module's output."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _tensors(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _tensors(child)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
