"""What of a model trains, and at which learning rate: freezing, per-tower rates, layer-wise decay."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmcl.config import ModelSection, OptimizerSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.towers.tower import tower_parts


def _frozen_parameters(encoder: Encoder, freeze: bool | int) -> list[nn.Parameter]:
    if freeze is False:
        return []
    if freeze is True:
        return [*encoder.tower.parameters()]
    parts = tower_parts(encoder.tower)
    if not 0 <= freeze <= len(parts.blocks):
        raise ConfigError(
            f"model.{encoder.modality}.freeze is {freeze}; {encoder.tower.spec['name']!r} has "
            f"{len(parts.blocks)} blocks"
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
        unused = unused_parameters(encoder)
        for parameter in encoder.tower.parameters():
            trains = id(parameter) not in frozen and id(parameter) not in unused
            changed |= parameter.requires_grad != trains
            parameter.requires_grad_(trains)
        encoder.train(encoder.training)
    return changed


def unused_parameters(encoder: Encoder) -> set[int]:
    """Ids of the tower's parameters that its features do not depend on, such as a pooler beside mean pooling.

    They would never get a gradient, which data parallelism waits for. Found by following the graph of one forward pass
    on one item; what was found is kept on the encoder.
    """
    names = getattr(encoder, "_unused_parameters", None)
    if names is None:
        names = encoder._unused_parameters = _find_unused(encoder)
    return {id(parameter) for name, parameter in encoder.tower.named_parameters() if name in names}


def _find_unused(encoder: Encoder) -> frozenset[str]:
    tower, parameters = encoder.tower, dict(encoder.tower.named_parameters())
    trained = {name: parameter.requires_grad for name, parameter in parameters.items()}
    training = tower.training
    tower.eval()
    try:
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            # Not through __call__, which may be compiled: one item is not worth that.
            features = encoder.pool(tower.forward(**tower.example()))
        reached = _leaves(features)
    finally:
        tower.train(training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(trained[name])
    return frozenset(name for name, parameter in parameters.items() if id(parameter) not in reached)


def _leaves(tensor: Tensor) -> set[int]:
    """Ids of the leaves of a tensor's graph."""
    seen, leaves, pending = set(), set(), [tensor.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        pending += [following for following, _ in node.next_functions]
    return leaves


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate and a weight decay."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    weight_decay: float


def _ever_trains(encoder: Encoder, section: TowerSection) -> set[int]:
    """Ids of the tower's parameters that train at some time of the run."""
    never = unused_parameters(encoder)
    if section.freeze_until_epoch is None:
        never |= {*map(id, _frozen_parameters(encoder, section.freeze))}
    return {id(p) for p in encoder.tower.parameters()} - never


def parameter_groups(model: DualEncoder, section: ModelSection, optimizer: OptimizerSection) -> list[ParameterGroup]:
    """Everything that trains at some time, by learning rate and weight decay.

    Matrices decay; biases, norms, embedding tables, class tokens, ``logit_scale`` and ``logit_bias`` do not. Block i of
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
        if encoder.learned_pooling is not None:
            rest += [*encoder.learned_pooling.parameters()]
        add(f"{encoder.modality} head", rest, optimizer.learning_rate)
    scalars = [p for p in (model.log_logit_scale, model.logit_bias) if p is not None and p.requires_grad]
    buckets[("logits", optimizer.learning_rate, 0.0)] = scalars
    return [ParameterGroup(label, ps, rate, decay) for (label, rate, decay), ps in buckets.items() if ps]
