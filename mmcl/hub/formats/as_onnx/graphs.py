"""One side of a dual encoder as an ONNX graph: inputs to unit embeddings, any batch, any length of text."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError, require
from mmcl.models.encoder import Encoder
from mmcl.models.pooling import GridPooling

OUTPUT = "embeddings"
OPSET = 20  # onnxruntime reads it from 1.18 on; nothing that towers use is newer
# Two captions of different lengths: a graph traced with one item, or without padding, would take that for granted.
_CAPTIONS = ("a photo of a dog", "two")


class _Positional(nn.Module):
    """An encoder whose keyword inputs are given by position, as the exporter wants them."""

    def __init__(self, encoder: Encoder, names: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.names = encoder, names

    def forward(self, *values: Tensor) -> Tensor:
        return self.encoder(**dict(zip(self.names, values)))


class _GridOfOneSize(nn.Module):
    """``GridPooling`` without its look at every mask, on which a graph cannot branch; a graph takes one size alone."""

    def __init__(self, pooling: GridPooling) -> None:
        super().__init__()
        self.num_tokens, self.places = pooling.num_tokens, pooling.places

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        of_places = tokens[:, -self.num_tokens :]
        mean = of_places.mean(1)
        return mean + self.places((of_places - mean[:, None]).flatten(1))


def write_graph(encoder: Encoder, path: Path) -> int:
    """Write an encoder (tower, pooling, head and norm) as an ONNX graph.

    Its inputs are ``pixel_values`` (batch, 3, H, W), or ``input_ids`` and, where the tower takes one,
    ``attention_mask`` (batch, length); its output ``embeddings`` (batch, d), unit rows. The batch is dynamic, and the
    length where the tower reads any. Weights above 2 GB lie beside the file, as ``NAME.onnx.data``.

    Args:
        encoder: one side of a model, in any place and mode; it is not changed.
        path: the file to write.

    Returns:
        The version of ONNX's operators that it uses.

    Raises:
        ConfigError: the exporter cannot write the tower; names what is in the way.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    for library in ("onnx", "onnxscript"):
        require(library, extra="onnx")
    encoder = copy.deepcopy(encoder).cpu().float().eval()
    if isinstance(encoder.learned_pooling, GridPooling):
        encoder.learned_pooling = _GridOfOneSize(encoder.learned_pooling)
    inputs = _example(encoder)
    dynamic = tuple(_dynamic_axes(encoder, value) for value in inputs.values())
    names = tuple(inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                _Positional(encoder, names), tuple(inputs.values()), dynamo=True, dynamic_shapes=(dynamic,),
                input_names=names, output_names=[OUTPUT], opset_version=OPSET,
                verbose=False,
            )  # fmt: skip
            _name_axes(program.model.graph)
            _forget_the_source(program.model)
            program.save(str(path))
    except Exception as error:  # torch.export raises its own, dynamo's and the model's errors
        raise ConfigError(
            f"the {encoder.modality} tower {encoder.tower.spec['name']!r} cannot be written as an ONNX graph "
            f"({_what_is_in_the_way(error)}); torch.onnx has no form for it. Use another tower or format"
        ) from error
    return program.model.opset_imports[""]


def _example(encoder: Encoder) -> dict[str, Tensor]:
    if encoder.modality == "text":
        return encoder.tower.preprocessing(list(_CAPTIONS))
    generator = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(2, 3, *encoder.tower.preprocessing.size, generator=generator)}


def _dynamic_axes(encoder: Encoder, value: Tensor) -> dict[int, object]:
    axes: dict[int, object] = {0: torch.export.Dim.DYNAMIC}
    if encoder.modality == "text" and reads_any_length(encoder):
        axes[1] = torch.export.Dim.DYNAMIC
    return axes


def reads_any_length(encoder: Encoder) -> bool:
    """Whether a text tower's batches are as long as their longest caption; else all have the tower's own length."""
    preprocessing = encoder.tower.preprocessing
    return getattr(preprocessing, "padding", "longest") == "longest" and getattr(preprocessing, "trim", True)


def _name_axes(graph: Any) -> None:
    """Axes are called batch and length, whatever symbols the trace gave them."""
    library = require("onnx_ir", extra="onnx")
    for value in [*graph.inputs, *graph.outputs]:
        known = zip(value.shape, ("batch", "length", "", ""))
        value.shape = library.Shape([axis if isinstance(axis, int) else name for axis, name in known])


def _forget_the_source(model: Any) -> None:
    """Exporters note with every node which lines of which files of this machine it came from; none of that goes out."""
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        graph.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.metadata_props.clear()
    model.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters print, log and warn of what they do, whole graphs at times; within this they do not."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
                stack.enter_context(redirect(io.StringIO()))
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _what_is_in_the_way(error: BaseException) -> str:
    """The operator that has no form in ONNX, or the innermost error's first line."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__
    for each in reversed(seen):
        operator = re.search(r"No ONNX function found for .*?\b((?:aten|\w+)[.:]+[\w.]+)", str(each))
        if operator:
            return f"operator {operator[1]}"
    lines = [line.strip() for line in str(seen[-1]).splitlines() if line.strip()]
    return f"{type(seen[-1]).__name__}: {lines[0][:200]}" if lines else type(seen[-1]).__name__
