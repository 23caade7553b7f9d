"""The files of sentence-transformers' modules: what each kind is called, and how one is written as a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead

TRANSFORMER_CONFIG = "sentence_bert_config.json"

# Name of a module -> the class that reads it, as the library itself writes it.
MODULES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Router": "sentence_transformers.base.modules.router.Router",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
}
# The library builds an activation of any class below ``torch.``, and of no other.
_NO_ACTIVATION = "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class SentenceModule:
    """A module behind the first one of a model.

    Attributes:
        kind: a key of ``MODULES``.
        config: its ``config.json``.
        weights: its ``model.safetensors``; none for a module without.
    """

    kind: str
    config: dict[str, Any]
    weights: dict[str, Tensor] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Make the module's folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", self.config)
        if self.weights:
            weights = {name: value.detach().cpu().float().contiguous().clone() for name, value in self.weights.items()}
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def normalize_module() -> SentenceModule:
    """Rows to unit length."""
    return SentenceModule("Normalize", {"module_input_name": "sentence_embedding"})


def pooling_module(feature_dim: int, mode: str | list[str]) -> SentenceModule:
    """Tokens (b, t, f) to (b, f); to (b, k f) where ``mode`` is a list of k."""
    return SentenceModule("Pooling", {"embedding_dimension": feature_dim, "pooling_mode": mode, "include_prompt": True})


def dense_module(weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None) -> SentenceModule:
    """``activation(W x + b)``; weight (d, f), bias (d,)."""
    kind = type(activation)
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": bias is not None,
        "activation_function": _NO_ACTIVATION if activation is None else f"{kind.__module__}.{kind.__qualname__}",
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    return SentenceModule("Dense", config, {"linear.weight": weight} | ({} if bias is None else {"linear.bias": bias}))


def layer_norm_module(norm: nn.LayerNorm) -> SentenceModule:
    """A ``LayerNorm`` over the features."""
    return SentenceModule(
        "LayerNorm", {"dimension": norm.normalized_shape[0]}, {"norm.weight": norm.weight, "norm.bias": norm.bias}
    )


def head_modules(head: nn.Module) -> list[SentenceModule]:
    """A head as modules that compute the same in evaluation.

    A layer with a norm before its activation becomes three, as the library has no activation by itself: the layer, the
    norm, and the identity matrix with the activation behind it. A batch norm is folded into the layer before it.

    Raises:
        ConfigError: not one of mmcl's heads.
    """
    if isinstance(head, IdentityHead):
        return []
    if isinstance(head, LinearHead):
        return [dense_module(head.projection.weight, head.projection.bias)]
    if not isinstance(head, MlpHead):
        raise ConfigError(f"a head of type {type(head).__name__} cannot be written as sentence-transformers' modules")
    layers = [layer for layer in head.layers if not isinstance(layer, nn.Dropout)]
    modules: list[SentenceModule] = []
    for linear, norm, activation in zip(layers[:-1:3], layers[1:-1:3], layers[2:-1:3]):
        if isinstance(norm, nn.LayerNorm):
            eye = torch.eye(norm.normalized_shape[0])
            modules += [dense_module(linear.weight, linear.bias), layer_norm_module(norm)]
            modules.append(dense_module(eye, None, activation))
        else:
            weight, bias = _folded(linear, norm) if isinstance(norm, nn.BatchNorm1d) else (linear.weight, linear.bias)
            modules.append(dense_module(weight, bias, activation))
    return [*modules, dense_module(layers[-1].weight, layers[-1].bias)]


def _folded(linear: nn.Linear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer with the batch norm behind it as it is in evaluation."""
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    weight = linear.weight.double() * factor[:, None]
    bias = (linear.bias.double() - norm.running_mean.double()) * factor + norm.bias.double()
    return weight.float(), bias.float()


def with_mean_of_places(first: SentenceModule | None, feature_dim: int, num_tokens: int) -> SentenceModule:
    """A linear map of the mean over an image's places, made from class token and mean over all tokens.

    With a class token c and n - 1 places, ``mean of places = (n mean of all - c) / (n - 1)``, which is linear in what
    the library's pooling gives for ``["cls", "mean"]``.

    Args:
        first: the map of the mean of places that the head starts with; None: the head is none.
        feature_dim: f.
        num_tokens: n, the class token among them.

    Returns:
        A map (d, 2 f).
    """
    if first is None:
        first = dense_module(torch.eye(feature_dim), None)
    weight, places = first.weights["linear.weight"].detach().double(), num_tokens - 1
    both = torch.cat([-weight / places, weight * (num_tokens / places)], dim=1).float()  # (d, 2 f)
    return SentenceModule(
        first.kind, first.config | {"in_features": both.shape[1]}, first.weights | {"linear.weight": both}
    )


def write_modules(folder: Path, modules: Sequence[tuple[str, str]]) -> None:
    """Write ``modules.json``.

    Args:
        folder: of the model.
        modules: (kind, folder below it) of each, in order; ``""`` is the model's folder itself.
    """
    described = [
        {"idx": number, "name": str(number), "path": path, "type": MODULES[kind]}
        for number, (kind, path) in enumerate(modules)
    ]
    write_json(folder / "modules.json", described)


def write_model_config(folder: Path, model: DualEncoder) -> None:
    """Write ``config_sentence_transformers.json``; beside the library's own keys, mmcl's scale and bias of logits."""
    bias = None if model.logit_bias is None else float(model.logit_bias.detach().item())
    config = {
        "model_type": "SentenceTransformer",
        "__version__": _versions({"sentence_transformers": "sentence-transformers", "transformers": "transformers",
                                  "pytorch": "torch", "mmcl": "mmcl"}.items()),
        "prompts": {},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
        "mmcl": {"logit_scale": float(model.logit_scale.detach().item()), "logit_bias": bias},
    }  # fmt: skip
    write_json(folder / "config_sentence_transformers.json", config)


def _versions(packages: Iterable[tuple[str, str]]) -> dict[str, str]:
    found = {}
    for name, package in packages:
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found
