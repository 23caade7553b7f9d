"""ONNX graphs with weights and products of 8 bits: as many layers as keep the embeddings what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.errors import ConfigError, require
from mmcl.logs import quiet_root_logger

_LARGE = 2 * 2**30  # a graph of more bytes keeps its weights beside it
_PRODUCTS = ("MatMul", "Gemm")
# How much of the spread of embeddings may be error: ranks of neighbours then move by well under a point.
NOISE = 0.02


@dataclass(frozen=True)
class Quantised:
    """An int8 graph.

    Attributes:
        layers: products of weights that are int8 now.
        in_float: what was left in float32 because the embeddings suffered, in words; empty: nothing.
        noise: mean squared error of the embeddings over their mean squared distance from their mean.
        has_convolutions: whether there are convolutions, which stay in float32: int8 ones are slower on a CPU.
    """

    layers: int
    in_float: str
    noise: float
    has_convolutions: bool


def quantise(source: Path, target: Path, embed: Callable[[Path], np.ndarray]) -> Quantised:
    """Write a graph with int8 weights; what runs through them is scaled to 8 bits call by call (dynamic quantisation).

    Weights are symmetric with a scale per channel, in 7 of their 8 bits, as processors without VNNI add pairs of
    products in 16 bits. Embedding tables are int8 too. Where embeddings suffer, the last product, then the first, then
    the tables are left in float32, and the least harmful of these is kept.

    Args:
        source: the float32 graph.
        target: the int8 graph to write.
        embed: embeddings (n, d) of the same n inputs by a graph, n at least 3.

    Returns:
        What was quantised.

    Raises:
        ConfigError: onnxruntime cannot quantise the graph.
        MissingDependencyError: onnxruntime is not installed.
    """
    graph = require("onnx", extra="onnx").load(str(source), load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    products = [n.name for n in graph.node if n.op_type in _PRODUCTS and weights.intersection(n.input)]
    tables = [n.name for n in graph.node if n.op_type == "Gather" and n.input[0] in weights]
    has_convolutions = any(node.op_type == "Conv" for node in graph.node)
    wanted = embed(source)
    last, both = tuple(products[-1:]), tuple(dict.fromkeys((*products[-1:], *products[:1])))
    attempts = {"": (), "the last layer": last, "the first and the last layer": both}
    attempts["the first and the last layer and the embedding tables"] = (*both, *tables)
    found: dict[str, float] = {}
    for in_float, nodes in attempts.items():
        _write(source, target, nodes)
        found[in_float] = _noise(embed(target), wanted)
        if found[in_float] <= NOISE:
            break
    best = min(found, key=found.get)
    if best != in_float:
        _write(source, target, attempts[best])
    left = set(products) - set(attempts[best])
    return Quantised(len(left), best, found[best], has_convolutions)


def _noise(found: np.ndarray, wanted: np.ndarray) -> float:
    spread = np.square(wanted - wanted.mean(0)).sum(1).mean()
    return float(np.square(found - wanted).sum(1).mean() / max(spread, 1e-12))


def _write(source: Path, target: Path, in_float: tuple[str, ...]) -> None:
    quantization: Any = require("onnxruntime.quantization", extra="onnx")
    beside = source.with_name(f"{source.name}.data")
    size = source.stat().st_size + (beside.stat().st_size if beside.is_file() else 0)
    with quiet_root_logger():
        try:
            quantization.quantize_dynamic(
                str(source), str(target), op_types_to_quantize=[*_PRODUCTS, "Gather"], per_channel=True,
                reduce_range=True, weight_type=quantization.QuantType.QInt8, nodes_to_exclude=[*in_float],
                use_external_data_format=size / 4 > _LARGE, extra_options={"MatMulConstBOnly": True},
            )  # fmt: skip
        except Exception as error:  # onnx and onnxruntime raise many kinds
            said = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(
                f"{source.name} cannot be quantised to int8 by onnxruntime ({said}); export without int8 (--no-int8)"
            ) from error
