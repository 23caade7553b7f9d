"""Heads: from an encoder's features to the shared space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class MemberHeads(nn.Module):
    """Several heads side by side on features of zero mean and unit variance; their unit embeddings stand in a row.

    With n members, ``e = [e_1 .. e_n] / sqrt(n)``: the cosine of two such rows is the mean of the members' cosines, so
    that an ensemble of n heads is one model, with one embedding an item (Lakshminarayanan et al. 2017,
    arXiv:1612.01474, average predictions; here it is scores). Members differ by their start, their dropout, and by
    their loss where the recipe says so.

    Args:
        members: heads of the same sizes, (b, f) to (b, d / n).
        feature_dim: f.
        input_norm: ``"batch"``: features are first centred and divided by their deviation, value by value, by the
            batch's statistics in training and by their mean over all of the training afterwards (Ioffe & Szegedy 2015,
            arXiv:1502.03167, without scale and shift, and with a plain mean in place of a moving one). ``"none"``: not.
    """

    def __init__(self, members: Sequence[nn.Module], feature_dim: int, *, input_norm: str = "none") -> None:
        super().__init__()
        self.input_norm = nn.Identity()
        if input_norm == "batch":
            self.input_norm = nn.BatchNorm1d(feature_dim, affine=False, momentum=None)
        self.members = nn.ModuleList(members)

    def forward(self, features: Tensor) -> Tensor:
        """features (b, f) -> (b, d)."""
        features = self.input_norm(features)
        units = [F.normalize(member(features).float(), dim=-1) for member in self.members]
        return torch.cat(units, dim=-1) / len(units) ** 0.5


def num_members(head: nn.Module) -> int:
    """How many heads stand side by side in one."""
    return len(head.members) if isinstance(head, MemberHeads) else 1


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
    if isinstance(head, MemberHeads):
        norm = "none" if isinstance(head.input_norm, nn.Identity) else "batch"
        return {**head_description(head.members[0]), "members": len(head.members), "input_norm": norm}
    raise ConfigError(f"a head of type {type(head).__name__} cannot be saved")
