"""What of a model trains, and at which learning rate: freezing, per-tower rates, layer-wise decay."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from mmcl.config import ModelSection, OptimizerSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.tower import tower_parts


def _frozen_parameters(encoder: Encoder, freeze: bool | int) -> list[nn.Parameter]:
    if freeze is False:
        return []
    if freeze is True:
        return [*encoder.tower.parameters()]
    parts = tower_parts(encoder.tower)
    if not 0 <= freeze <= len(parts.blocks):
        raise ConfigError(
            f"model.{encoder.modality}.freeze is {freeze}; {encoder.tower.spec['name']!r} has {len(parts.blocks)} blocks"
        )
    return [*parts.stem, *(p for block in parts.blocks[:freeze] for p in block)]


def apply_freezing(model: DualEncoder, section: ModelSection, *, epoch: float = 0.0) -> bool:
    """Set which parameters train at ``epoch``.

    Args:
        model: the model.
        section: its recipe; ``freeze`` and ``freeze_until_epoch`` of both towers.
        epoch: the fractional epoch reached.

    Returns:
        Whether anything changed.

    Raises:
        ConfigError: more blocks to freeze than the tower has.
    """
    changed = False
    for encoder, tower in ((model.image, section.image), (model.text, section.text)):
        thawed = tower.freeze_until_epoch is not None and epoch >= tower.freeze_until_epoch
        frozen = set() if thawed else set(map(id, _frozen_parameters(encoder, tower.freeze)))
        unused = set(map(id, _unused_pooler(encoder)))
        for parameter in encoder.tower.parameters():
            trains = id(parameter) not in frozen and id(parameter) not in unused
            changed |= parameter.requires_grad != trains
            parameter.requires_grad_(trains)
        encoder.train(encoder.training)
    return changed


def _unused_pooler(encoder: Encoder) -> list[nn.Parameter]:
    """Weights of a pooler that this pooling does not read: they would never get a gradient."""
    pooler = getattr(encoder.tower.model, "pooler", None)
    return [*pooler.parameters()] if encoder.pooling != "pooler" and isinstance(pooler, nn.Module) else []


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    weight_decay: float


def _ever_trains(encoder: Encoder, section: TowerSection) -> set[int]:
    """Ids of the tower's parameters that train at some time of the run."""
    never = {*map(id, _unused_pooler(encoder))}
    if section.freeze_until_epoch is None:
        never |= {*map(id, _frozen_parameters(encoder, section.freeze))}
    return {id(p) for p in encoder.tower.parameters()} - never


def parameter_groups(model: DualEncoder, section: ModelSection, optimizer: OptimizerSection) -> list[ParameterGroup]:
    """Everything that trains at some time, by learning rate and weight decay.

    Matrices decay; biases, norms, embeddings tables, class tokens, ``logit_scale`` and ``logit_bias`` do not. Block i of
    n (from 0, below the neck) learns at ``layer_decay ** (n - i)`` of its tower's rate, the stem at
    ``layer_decay ** (n + 1)``. Source: Clark et al. 2020 (arXiv:2003.10555) for layer-wise decay.
    """
    buckets: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    names = {id(p): name for name, p in model.named_parameters()}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}

    def add(label: str, parameters: list[nn.Parameter], rate: float) -> None:
        for parameter in parameters:
            name = names[id(parameter)]
            decays = parameter.ndim >= 2 and id(parameter) not in tables and not name.endswith(("_token", "embeddings"))
            decays = decays and "position" not in name and "pos_embed" not in name
            key = (label, rate, optimizer.weight_decay if decays else 0.0)
            buckets.setdefault(key, []).append(parameter)

    for encoder, tower in ((model.image, section.image), (model.text, section.text)):
        rate = tower.learning_rate or optimizer.learning_rate
        trains = _ever_trains(encoder, tower)
        parts = tower_parts(encoder.tower)
        levels = [parts.neck, *reversed(parts.blocks), parts.stem]
        for depth, parameters in enumerate(levels):
            label = f"{encoder.modality} tower"
            add(label, [p for p in parameters if id(p) in trains], rate * tower.layer_decay**depth)
        rest = [*encoder.head.parameters()]
        if encoder.attention_pooling is not None:
            rest += [*encoder.attention_pooling.parameters()]
        add(f"{encoder.modality} head", rest, optimizer.learning_rate)
    scalars = [p for p in (model.log_logit_scale, model.logit_bias) if p is not None and p.requires_grad]
    buckets[("logits", optimizer.learning_rate, 0.0)] = scalars
    return [ParameterGroup(label, ps, rate, decay) for (label, rate, decay), ps in buckets.items() if ps]
