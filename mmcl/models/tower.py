"""`Tower`: what every image or text encoder looks like from outside, whichever library it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from mmcl.errors import ConfigError


@dataclass
class TowerOutput:
    """Attributes:
    tokens: (b, t, f), or None where the tower gives none.
    mask: (b, t) bool, the tokens that count for mean, max and attention pooling.
    pooled: (b, f), the tower's own features, or None.
    """

    tokens: Tensor | None
    mask: Tensor | None
    pooled: Tensor | None


class Preprocessing(Protocol):
    """Raw items to a tower's keyword inputs."""

    def __call__(self, items: Any) -> dict[str, Tensor]: ...

    def to_dict(self) -> dict[str, Any]: ...


class Tower(nn.Module):
    """An encoder without pooling and head.

    Attributes:
        modality: ``"image"`` or ``"text"``.
        model: the library's own module; all weights live in it.
        feature_dim: f.
        poolings: the poolings this tower allows.
        default_pooling: what ``pooling: auto`` means for it.
        preprocessing: raw items to keyword inputs.
        spec: plain values from which the same tower is built again, without weights.
        projection: (d, f) or None: the pretrained map into a shared space that came with the tower.
    """

    modality: str
    model: nn.Module
    feature_dim: int
    poolings: tuple[str, ...]
    default_pooling: str
    preprocessing: Any
    spec: dict[str, Any]
    projection: Tensor | None = None

    def forward(self, **inputs: Tensor) -> TowerOutput:
        """Encode a batch."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes")

    def set_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass.

        Raises:
            ConfigError: the tower cannot.
        """
        for name in ("gradient_checkpointing_enable", "set_grad_checkpointing"):
            if hasattr(self.model, name):
                getattr(self.model, name)()
                return
        raise ConfigError(f"train.gradient_checkpointing: the {self.modality} tower {self.spec.get('name')!r} has none")


@dataclass(frozen=True)
class TowerParts:
    """A tower's parameters by depth: what stands before its blocks, the blocks, and what stands behind them."""

    stem: list[nn.Parameter]
    blocks: list[list[nn.Parameter]]
    neck: list[nn.Parameter]


def _block_container(model: nn.Module) -> tuple[str, nn.Module] | None:
    """The outermost list of modules that holds the most parameters: the blocks of any known encoder."""
    best: tuple[int, str, nn.Module] | None = None
    nested: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) < 2 or name == "":
            continue
        if any(name.startswith(outer + ".") for outer in nested):
            continue
        size = sum(p.numel() for p in module.parameters())
        if best is None or size > best[0]:
            best = (size, name, module)
        nested.append(name)
    return None if best is None or best[0] == 0 else (best[1], best[2])


def tower_parts(tower: Tower) -> TowerParts:
    """Sort a tower's parameters by depth, for freezing the first n blocks and for layer-wise learning rates."""
    named = dict(tower.model.named_parameters())
    found = _block_container(tower.model)
    if found is None:  # no list of blocks (ResNet): its parts with parameters, in order, are the blocks
        children = [[*child.parameters()] for child in tower.model.children()]
        return TowerParts([], [child for child in children if child], [])
    prefix, container = found
    order = list(named)
    inside = [i for i, name in enumerate(order) if name.startswith(prefix + ".")]
    # Parameters registered on the root come first by name, projections into the shared space among them.
    late = ("proj", "text_projection", "head", "logit_scale")
    stem = [n for n in order[: inside[0]] if n.partition(".")[0] not in late]
    neck = [n for n in order if n not in set(stem) and not n.startswith(prefix + ".")]
    return TowerParts([named[n] for n in stem], [[*b.parameters()] for b in container], [named[n] for n in neck])
