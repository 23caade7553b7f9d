"""Heads: from an encoder's features to the shared space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmcl.errors import ConfigError

_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class LinearHead(nn.Module):
    """``W x (+ b)``, CLIP's head (Radford et al. 2021, fig. 3), with optional dropout on the features."""

    def __init__(self, feature_dim: int, embedding_dim: int, *, bias: bool = False, input_dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(input_dropout)
        self.projection = nn.Linear(feature_dim, embedding_dim, bias=bias)
        nn.init.normal_(self.projection.weight, std=feature_dim**-0.5)  # CLIP's start of its projections

    def forward(self, features: Tensor) -> Tensor:
        """features (b, f) -> (b, d)."""
        return self.projection(self.dropout(features))


class MlpHead(nn.Module):
    """Hidden layers with norm, activation and dropout before the projection (SimCLR's g, arXiv:2002.05709 sec. 2)."""

    def __init__(
        self,
        feature_dim: int,
        embedding_dim: int,
        *,
        hidden_dims: Sequence[int] = (1024,),
        input_dropout: float = 0.0,
        dropout: float = 0.0,
        norm: str = "none",
        activation: str = "gelu",
    ) -> None:
        super().__init__()
        self.settings = {
            "hidden_dims": list(hidden_dims),
            "input_dropout": input_dropout,
            "dropout": dropout,
            "norm": norm,
            "activation": activation,
        }
        norms = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
        layers: list[nn.Module] = [nn.Dropout(input_dropout)]
        width = feature_dim
        for hidden in hidden_dims:
            layers += [nn.Linear(width, hidden), norms[norm](hidden), _ACTIVATIONS[activation](), nn.Dropout(dropout)]
            width = hidden
        layers.append(nn.Linear(width, embedding_dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """features (b, f) -> (b, d)."""
        return self.layers(features)


class IdentityHead(nn.Module):
    """The features are the embeddings: for towers that end in a shared space already, such as open_clip's."""

    def forward(self, features: Tensor) -> Tensor:
        """features (b, d) -> (b, d)."""
        return features


def head_description(head: nn.Module) -> dict[str, Any]:
    """The values of ``model.*.head`` in a recipe that build a head again.

    Raises:
        ConfigError: not one of mmcl's heads.
    """
    if isinstance(head, IdentityHead):
        return {"name": "none"}
    if isinstance(head, LinearHead):
        return {"name": "linear", "input_dropout": head.dropout.p, "bias": head.projection.bias is not None}
    if isinstance(head, MlpHead):
        return {"name": "mlp", **head.settings}
    raise ConfigError(f"a head of type {type(head).__name__} cannot be saved")
