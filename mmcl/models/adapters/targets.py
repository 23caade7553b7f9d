"""Which layers of a tower are adapted."""

from __future__ import annotations

from torch import nn

from mmcl.config import LoraSection
from mmcl.errors import ConfigError
from mmcl.models.towers.tower import Tower, tower_blocks


def find_targets(tower: Tower, section: LoraSection) -> list[str]:
    """Names, in the tower's module, of the layers that get an adapter.

    Without ``targets``: every linear layer and every 1x1 convolution within the blocks. In a transformer, those are the
    layers of attention and MLP; in a ConvNeXt or an EfficientNet, the pointwise convolutions. The projections inside
    ``torch.nn.MultiheadAttention`` (open_clip's towers) are used without being called, and are left out. With
    ``targets``: the layers of those names, or whose names end in one of them, within the blocks.

    Args:
        tower: not yet adapted.
        section: its ``lora``.

    Returns:
        At least one name, in the module's order.

    Raises:
        ConfigError: the tower has no such layer, or fewer blocks than ``blocks``.
    """
    key, name = f"model.{tower.modality}.lora", tower.spec["name"]
    blocks = tower_blocks(tower)
    if section.blocks is not None and section.blocks > len(blocks):
        raise ConfigError(f"{key}.blocks is {section.blocks}; {name!r} has {len(blocks)} blocks")
    kept = blocks if section.blocks is None else blocks[-section.blocks :]
    inside = [
        (f"{block}.{part}" if part else block, module)
        for block, whole in kept
        for part, module in whole.named_modules()
    ]
    uncalled = tuple(f"{path}." for path, module in inside if isinstance(module, nn.MultiheadAttention))
    layers = {
        path: module for path, module in inside if not path.startswith(uncalled or ("\0",)) and _adaptable(module)
    }
    if section.targets is None:
        found = [path for path, module in layers.items() if not isinstance(module, nn.Conv2d) or _is_pointwise(module)]
        if not found:
            raise ConfigError(
                f"{key}: {name!r} has no linear layer and no 1x1 convolution in its blocks; name layers in "
                f"{key}.targets, such as {_examples(layers)}, or freeze but its last blocks: "
                f"model.{tower.modality}.freeze=N"
            )
        return found
    for target in section.targets:
        if not any(_is_named(path, target) for path in layers):
            raise ConfigError(
                f"{key}.targets: {name!r} has no linear layer or convolution named {target!r} in the blocks "
                f"adapted; it has {_examples(layers)}"
            )
    return [path for path in layers if any(_is_named(path, target) for target in section.targets)]


def _adaptable(module: nn.Module) -> bool:
    """Linear layers, whole convolutions, and GPT-2's linear layers, which transformers calls Conv1D."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _is_pointwise(layer: nn.Conv2d) -> bool:
    return tuple(layer.kernel_size) == (1, 1)


def _is_named(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _examples(layers: dict[str, nn.Module]) -> str:
    last = dict.fromkeys(path.rpartition(".")[2] for path in layers)
    return ", ".join([*last][:8]) or "none"
