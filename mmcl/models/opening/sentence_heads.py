"""Heads from the `Dense` and `LayerNorm` modules of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead
from mmcl.models.towers.timm_tower import read_weights
from mmcl.models.towers.transformers_loading import parse_json

_ACTIVATIONS = {"Identity": None, "GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}
_LIBRARY_DEFAULT = "torch.nn.modules.activation.Tanh"


@dataclass(frozen=True)
class SentenceModule:
    """A module of a model.

    Attributes:
        kind: the last word of its class, such as ``"Dense"``.
        folder: where its files are.
    """

    kind: str
    folder: Path

    def config(self) -> dict[str, Any]:
        """Its ``config.json``; empty where it has none."""
        path = self.folder / "config.json"
        return parse_json(path) if path.is_file() else {}


@dataclass(frozen=True)
class SentenceLayer:
    """A ``Dense`` or ``LayerNorm`` module with its weights.

    Attributes:
        kind: ``"Dense"`` or ``"LayerNorm"``.
        weight: (d, f), or (f,) of a norm.
        bias: (d,), (f,) or None.
        activation: mmcl's word for what stands behind a ``Dense``; None for nothing.
    """

    kind: str
    weight: Tensor
    bias: Tensor | None
    activation: str | None = None


@dataclass(frozen=True)
class _Hidden:
    linear: SentenceLayer
    norm: SentenceLayer | None
    activation: str


def read_layer(module: SentenceModule) -> SentenceLayer:
    """A module behind the pooling.

    Raises:
        ConfigError: mmcl's heads have no such module or activation, or it is not complete.
    """
    if module.kind not in ("Dense", "LayerNorm"):
        raise ConfigError(
            f"{module.folder}: mmcl has no {module.kind}; it reads Pooling, Dense, LayerNorm and Normalize"
        )
    prefix = "linear" if module.kind == "Dense" else "norm"
    weights, config = read_weights(module.folder / "model.safetensors"), module.config()
    if f"{prefix}.weight" not in weights:
        raise ConfigError(f"{module.folder / 'model.safetensors'} has no {prefix}.weight; the model is not complete")
    weight, bias = weights[f"{prefix}.weight"].float(), weights.get(f"{prefix}.bias")
    bias = None if bias is None else bias.float()
    if module.kind == "LayerNorm":
        return SentenceLayer(module.kind, weight, bias)
    name = str(config.get("activation_function", _LIBRARY_DEFAULT)).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ConfigError(f"{module.folder}: its activation is {name}; mmcl's heads have GELU, ReLU, SiLU or none")
    if config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise ConfigError(f"{module.folder}: a Dense with a residual, or of tokens, which mmcl's heads have not")
    return SentenceLayer(module.kind, weight, bias, _ACTIVATIONS[name])


def build_sentence_head(layers: Sequence[SentenceLayer], feature_dim: int, folder: Path) -> tuple[nn.Module, int]:
    """A head of mmcl's from layers in order, and the size of what it gives.

    Args:
        layers: as the export writes them: ``Dense`` without activation; or ``Dense`` with one; or ``Dense``,
            ``LayerNorm``, and the identity matrix with an activation.
        feature_dim: f.
        folder: for messages.

    Raises:
        ConfigError: layers in another order, or of sizes that do not fit.
    """
    if not layers:
        return IdentityHead(), feature_dim
    hidden, last = _sort(list(layers), folder)
    dense = [*(block.linear for block in hidden), last]
    for layer, width in zip(dense, [feature_dim, *(layer.weight.shape[0] for layer in dense)]):
        if layer.weight.shape[1] != width:
            raise ConfigError(f"{folder}: a Dense takes {layer.weight.shape[1]} values, and is given {width}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # the weights drawn here are all replaced
        head = _mlp(hidden, last, feature_dim, folder) if hidden else _linear(last)
    return head, last.weight.shape[0]


def _sort(layers: list[SentenceLayer], folder: Path) -> tuple[list[_Hidden], SentenceLayer]:
    hidden: list[_Hidden] = []
    while len(layers) > 1:
        linear, following, after = layers[0], layers[1], layers[2] if len(layers) > 2 else None
        if linear.kind == "Dense" and linear.activation is not None:
            hidden.append(_Hidden(linear, None, linear.activation))
            layers = layers[1:]
        elif linear.kind == "Dense" and following.kind == "LayerNorm" and after is not None and _activates(after):
            hidden.append(_Hidden(linear, following, after.activation or ""))
            layers = layers[3:]
        else:
            break
    if len(layers) != 1 or layers[0].kind != "Dense" or layers[0].activation is not None:
        order = ", ".join(f"{layer.kind} ({layer.activation or 'no activation'})" for layer in layers)
        raise ConfigError(
            f"{folder}: mmcl's heads end in one Dense without activation, and have a norm between a Dense and its "
            f"activation alone; here it ends in {order or 'none'}"
        )
    return hidden, layers[0]


def _activates(layer: SentenceLayer) -> bool:
    """Whether a layer is an activation by itself: the identity matrix without bias in front of one."""
    square = layer.kind == "Dense" and layer.weight.shape[0] == layer.weight.shape[1]
    if not square or layer.bias is not None or layer.activation is None:
        return False
    return torch.equal(layer.weight, torch.eye(len(layer.weight)))


def _linear(last: SentenceLayer) -> LinearHead:
    head = LinearHead(last.weight.shape[1], last.weight.shape[0], bias=last.bias is not None)
    _fill(head.projection, last)
    return head


def _mlp(hidden: list[_Hidden], last: SentenceLayer, feature_dim: int, folder: Path) -> MlpHead:
    activations, norms = {block.activation for block in hidden}, {block.norm is not None for block in hidden}
    if len(activations) > 1 or len(norms) > 1:
        raise ConfigError(
            f"{folder}: hidden layers of several kinds; mmcl's heads have one norm and activation for all"
        )
    head = MlpHead(
        feature_dim,
        last.weight.shape[0],
        hidden_dims=[block.linear.weight.shape[0] for block in hidden],
        norm="layer" if norms.pop() else "none",
        activation=activations.pop(),
    )
    layers = [layer for layer in head.layers if not isinstance(layer, nn.Dropout)]
    for linear, norm, block in zip(layers[:-1:3], layers[1:-1:3], hidden):
        _fill(linear, block.linear)
        if block.norm is not None:
            _fill(norm, block.norm)
    _fill(layers[-1], last)
    return head


def _fill(module: Any, layer: SentenceLayer) -> None:
    module.weight.copy_(layer.weight)
    if module.bias is not None:
        module.bias.copy_(torch.zeros_like(module.bias) if layer.bias is None else layer.bias)
