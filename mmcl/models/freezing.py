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

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


def _frozen_parameters(encoder: Encoder, section: TowerSection) -> list[nn.Parameter]:
    """What of a tower does not train, before it thaws or where it never does."""
    freeze, tower = section.freeze, encoder.tower
    if freeze is True:
        return [*tower.parameters()]
    if section.lora.rank > 0:
        return _all_but_adapters(encoder, norms=section.lora.norms)
    if freeze is False:
        return []
    if freeze == "biases":
        return _all_but_biases(encoder)
    parts = tower_parts(tower)
    if not 0 <= freeze <= len(parts.blocks):
        raise ConfigError(
            f"model.{encoder.modality}.freeze is {freeze}; {encoder.tower.spec['name']!r} has "
            f"{len(parts.blocks)} blocks"
        )
    return [*parts.stem, *(p for block in parts.blocks[:freeze] for p in block)]


def _all_but_biases(encoder: Encoder) -> list[nn.Parameter]:
    """BitFit: Ben Zaken et al. 2022 (arXiv:2106.10199), section 3. The shifts of norms are biases."""
    named = [*encoder.tower.named_parameters()]
    biases = {id(p) for name, p in named if name.endswith(("bias", "bias_k", "bias_v")) and p.ndim <= 1}
    if not biases - unused_parameters(encoder):
        raise ConfigError(
            f"model.{encoder.modality}.freeze is biases, but {encoder.tower.spec['name']!r} has none; use "
            f"model.{encoder.modality}.lora.rank, or a number of blocks to freeze"
        )
    return [p for _, p in named if id(p) not in biases]


def _all_but_adapters(encoder: Encoder, *, norms: bool) -> list[nn.Parameter]:
    """All weights of a tower with adapters but theirs; none where the adapters are merged into it."""
    named = [*encoder.tower.named_parameters()]
    trains = {id(p) for name, p in named if ".lora_" in name}
    if not trains:
        return []
    if norms:
        trains |= {id(p) for part in encoder.tower.modules() if is_norm(part) for p in part.parameters(recurse=False)}
    return [p for _, p in named if id(p) not in trains]


def is_norm(part: nn.Module) -> bool:
    """Whether a layer is a norm: torch's own, or one that its class's name calls so (T5LayerNorm, LlamaRMSNorm)."""
    return isinstance(part, NORMS) or type(part).__name__.endswith("Norm")


def forget_unused_parameters(encoder: Encoder) -> None:
    """To be called when a tower's parameters have changed their names, so that those unused are found anew."""
    encoder.__dict__.pop("_unused_parameters", None)


def apply_freezing(model: DualEncoder, section: ModelSection, *, epoch: float = 0.0) -> bool:
    """Set which parameters train at ``epoch``.

    Args:
        model: the model.
        section: its recipe; ``freeze``, ``freeze_until_epoch`` and ``lora`` of both towers.
        epoch: the fractional epoch reached.

    Returns:
        Whether anything changed.

    Raises:
        ConfigError: more blocks to freeze than the tower has.
    """
    changed = False
    for encoder, tower in ((model.image, section.image), (model.text, section.text)):
        thawed = tower.freeze_until_epoch is not None and epoch >= tower.freeze_until_epoch
        if thawed:
            tower = tower.model_copy(update={"freeze": False})  # of a tower with adapters, these alone thaw
        frozen = set(map(id, _frozen_parameters(encoder, tower)))
        unused = unused_parameters(encoder)
        for parameter in encoder.tower.parameters():
            trains = id(parameter) not in frozen and id(parameter) not in unused
            changed |= parameter.requires_grad != trains
            parameter.requires_grad_(trains)
        encoder.keeps_statistics = _keeps_statistics(tower, section, any_frozen=bool(frozen))
        encoder.train(encoder.training)
    return changed


def _keeps_statistics(tower: TowerSection, section: ModelSection, *, any_frozen: bool) -> bool:
    """Whether batch norms go on with their running statistics.

    Those of a batch are others: heads that have learnt on features of the former would find strange ones from one step
    to the next. And where the weights of convolutions stay, so do the statistics of what comes out of them.
    """
    if tower.keep_statistics is not None:
        return tower.keep_statistics
    learnt = tower.freeze_until_epoch is not None or section.init_from is not None
    return learnt or tower.freeze == "biases" or (tower.lora.rank > 0 and any_frozen)


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
    """Parameters that share a learning rate and a weight decay.

    Attributes:
        name: what they are part of.
        parameters: at least one.
        learning_rate: the highest of the schedule.
        weight_decay: 0 for what does not decay.
        thaws_at: the epoch from which on they train; None: from the start.
    """

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    weight_decay: float
    thaws_at: float | None = None


def _ever_trains(encoder: Encoder, section: TowerSection) -> set[int]:
    """Ids of the tower's parameters that train at some time of the run."""
    never = unused_parameters(encoder)
    if section.freeze_until_epoch is not None:
        section = section.model_copy(update={"freeze": False})
    never |= {*map(id, _frozen_parameters(encoder, section))}
    return {id(p) for p in encoder.tower.parameters()} - never


def parameter_groups(model: DualEncoder, section: ModelSection, optimizer: OptimizerSection) -> list[ParameterGroup]:
    """Everything that trains at some time, by learning rate and weight decay.

    Matrices decay; biases, norms, embedding tables, class tokens, ``logit_scale`` and ``logit_bias`` do not. Block i of
    n (from 0, below the neck) learns at ``layer_decay ** (n - i)`` of its tower's rate, the stem at
    ``layer_decay ** (n + 1)``. Source: Clark et al. 2020 (arXiv:2003.10555) for layer-wise decay.
    """
    buckets: dict[tuple[str, float, float, float | None], list[nn.Parameter]] = {}
    thaws: dict[int, float] = {}  # by id of what is frozen at first
    names = {id(p): name for name, p in model.named_parameters()}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}

    def add(label: str, parameters: list[nn.Parameter], rate: float) -> None:
        for parameter in parameters:
            name = names[id(parameter)]
            decays = parameter.ndim >= 2 and id(parameter) not in tables and not name.endswith(("_token", "embeddings"))
            decays = decays and "position" not in name and "pos_embed" not in name
            key = (label, rate, optimizer.weight_decay if decays else 0.0, thaws.get(id(parameter)))
            buckets.setdefault(key, []).append(parameter)

    for encoder, tower in ((model.image, section.image), (model.text, section.text)):
        rate = tower.learning_rate or optimizer.learning_rate
        trains = _ever_trains(encoder, tower)
        if tower.freeze_until_epoch is not None:
            thaws |= {id(p): tower.freeze_until_epoch for p in _frozen_parameters(encoder, tower)}
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
    buckets[("logits", optimizer.learning_rate, 0.0, None)] = scalars
    return [ParameterGroup(label, ps, rate, *rest) for (label, rate, *rest), ps in buckets.items() if ps]
