"""`Half`: one side of a dual encoder as transformers would hold it, whichever library built the tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmcl.hub.formats.weight_names.fitting import UnfitError
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead
from mmcl.models.saving import tower_obstacle
from mmcl.models.towers.open_clip_tower import OpenClipTower
from mmcl.models.towers.transformers_tower import TransformersTower


@dataclass(frozen=True)
class Half:
    """A tower under transformers' names, and the linear map behind it.

    Attributes:
        modality: ``"image"`` or ``"text"``.
        config: transformers' config of the tower.
        pooling: how tokens become features; ``"pooler"`` is the tower's own way.
        feature_dim: f, of the features before the projection.
        embedding_dim: d.
        source: the weights as they are.
        convert: from them to transformers' names.
        own_projection: (d', f) that open_clip keeps within its tower; None for none.
        head: mmcl's own projection (d, d') or (d, f); None where features are embeddings.
        pooling_obstacle: why no VisionTextDualEncoder pools so; None where it does.
        is_converted: whether the tower is another library's.
    """

    modality: str
    config: Any
    pooling: str
    feature_dim: int
    embedding_dim: int
    source: Mapping[str, Tensor]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    own_projection: Tensor | None = None
    head: Tensor | None = None
    pooling_obstacle: str | None = None
    is_converted: bool = False

    @property
    def kind(self) -> str:
        """transformers' name of the tower's kind, such as ``"clip_vision_model"``."""
        return self.config.model_type

    @property
    def state(self) -> dict[str, Tensor]:
        """The tower's weights under transformers' names."""
        return self.convert(self.source)

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """The shapes of ``state``, found without memory for it."""
        hollow = {name: torch.empty_like(value, device="meta") for name, value in self.source.items()}
        return {name: value.shape for name, value in self.convert(hollow).items()}

    @property
    def projects(self) -> bool:
        """Whether a linear map stands between features and embeddings."""
        return self.own_projection is not None or self.head is not None

    @property
    def projection(self) -> Tensor:
        """(d, f) float32 from features to embeddings; where there is none, the map that changes nothing."""
        maps = [m.detach().float().cpu() for m in (self.head, self.own_projection) if m is not None]
        if len(maps) == 2:  # one map after another is one map; in float64, so that rounding comes once
            return (maps[0].double() @ maps[1].double()).float()
        return maps[0] if maps else torch.eye(self.feature_dim)


def half_of(encoder: Encoder) -> Half:
    """One side of a dual encoder as transformers would hold it.

    Raises:
        UnfitError: the tower is none of transformers' and cannot be made one, or its head is not linear.
    """
    tower = encoder.tower
    if isinstance(tower, OpenClipTower):
        from mmcl.hub.formats.as_transformers.open_clip_halves import open_clip_half

        return open_clip_half(encoder, head_matrix(encoder))
    if not isinstance(tower, TransformersTower):
        library = {"timm": "timm's", "tiny": "mmcl's own"}.get(tower.spec["family"], f"a {type(tower).__name__}")
        raise UnfitError(f"the {encoder.modality} tower is {library} {tower.spec['name']}, not one of transformers'")
    head = head_matrix(encoder)
    dim = tower.feature_dim if head is None else head.shape[0]
    return Half(
        encoder.modality,
        tower.model.config,
        encoder.pooling,
        tower.feature_dim,
        dim,
        tower.model.state_dict(),
        head=head,
        pooling_obstacle=tower_obstacle(encoder),
    )


def head_matrix(encoder: Encoder) -> Tensor | None:
    """(d, f) of a linear head; None where features are embeddings.

    Raises:
        UnfitError: the head is more than a matrix.
    """
    if isinstance(encoder.head, IdentityHead):
        return None
    if not isinstance(encoder.head, LinearHead):
        kind = type(encoder.head).__name__
        raise UnfitError(f"the {encoder.modality} head is a {kind}, not a linear one without bias")
    if encoder.head.projection.bias is not None:
        raise UnfitError(f"the {encoder.modality} head is linear with a bias, for which there is no place")
    return encoder.head.projection.weight
