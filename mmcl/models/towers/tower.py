"""`Tower`: what every image or text encoder looks like from outside, whichever library it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError


@dataclass
class TowerOutput:
    """What a tower makes of a batch.

    Attributes:
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

    def choose_pooling(self, pooling: str) -> None:
        """Be told the pooling before the head is built: some change what the tower gives, and so ``feature_dim``."""

    def example(self) -> dict[str, Tensor]:
        """Keyword inputs of one item, a black image or a one-letter caption, where the tower's weights are."""
        if self.modality == "image":
            black = torch.zeros(3, *self.preprocessing.size, dtype=torch.uint8)
        inputs = self.preprocessing([black] if self.modality == "image" else ["a"])
        device = next(self.model.parameters()).device
        return {name: value.to(device) for name, value in inputs.items()}

    def set_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass.

        Raises:
            ConfigError: the tower cannot.
        """
        try:
            if hasattr(self.model, "gradient_checkpointing_enable"):
                # The reentrant kind gives blocks behind a frozen stem no gradient.
                self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
                return
            if hasattr(self.model, "set_grad_checkpointing"):
                self.model.set_grad_checkpointing()
                return
        except (ValueError, AssertionError, NotImplementedError):
            pass  # said below: the libraries' ways of saying that a model has none
        raise ConfigError(
            f"train.gradient_checkpointing: the {self.modality} tower {self.spec['name']!r} has none; turn it off"
        )


@dataclass(frozen=True)
class TowerParts:
    """A tower's parameters by depth: what stands before its blocks, the blocks, and what stands behind them."""

    stem: list[nn.Parameter]
    blocks: list[list[nn.Parameter]]
    neck: list[nn.Parameter]


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _block_lists(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The lists of modules that hold the blocks of an encoder: the largest of the outermost lists, and its like.

    A transformer has one list of layers; a convolutional net may have one a stage (ResNet's layer1 to layer4).
    """
    outermost: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        is_list = isinstance(module, (nn.ModuleList, nn.Sequential)) and _size(module) > 0
        if name and is_list and not any(name.startswith(outer + ".") for outer in outermost):
            outermost[name] = module
    if not outermost:
        return []
    largest = max(outermost, key=lambda name: _size(outermost[name]))
    alike = [(name, outermost[name]) for name in outermost if name.rstrip("0123456789") == largest.rstrip("0123456789")]
    return alike if sum(len(module) for _, module in alike) > 1 else []


def tower_blocks(tower: Tower) -> list[tuple[str, nn.Module]]:
    """A tower's blocks with their names in its module, first to last; see ``tower_parts``."""
    lists = _block_lists(tower.model)
    if not lists:
        return [(name, child) for name, child in tower.model.named_children() if _size(child)]
    return [(f"{name}.{place}", block) for name, blocks in lists for place, block in blocks.named_children()]


def tower_parts(tower: Tower) -> TowerParts:
    """Sort a tower's parameters by depth, for freezing the first n blocks and for layer-wise learning rates."""
    named = dict(tower.model.named_parameters())
    lists = _block_lists(tower.model)
    if not lists:  # no list of blocks: the model's parts with parameters, in order, are the blocks
        children = [[*child.parameters()] for child in tower.model.children()]
        loose = [p for name, p in named.items() if "." not in name]
        return TowerParts(loose, [child for child in children if child], [])
    prefixes = tuple(f"{name}." for name, _ in lists)
    first = next(i for i, name in enumerate(named) if name.startswith(prefixes))
    # Parameters registered on the root come first by name, projections into the shared space among them.
    late = ("proj", "text_projection", "head", "logit_scale")
    stem = {name: p for name, p in [*named.items()][:first] if name.partition(".")[0] not in late}
    neck = [p for name, p in named.items() if name not in stem and not name.startswith(prefixes)]
    return TowerParts([*stem.values()], [[*block.parameters()] for _, module in lists for block in module], neck)
