"""LoRA adapters in a model's towers: attached, found, and merged into the weights again."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

from torch import nn

from mmcl.config import LoraSection, ModelSection
from mmcl.errors import ConfigError, require
from mmcl.logs import get_logger
from mmcl.models.adapters.targets import find_targets
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.freezing import forget_unused_parameters, unused_parameters

log = get_logger(__name__)

NAME = "default"  # peft's name of an adapter that has no other


def attach_lora(model: DualEncoder, section: ModelSection) -> None:
    """Put LoRA adapters into the towers whose section has ``lora.rank`` above 0, in place.

    An adapted layer computes ``W x + (alpha / rank) B A dropout(x)``. B starts at zero: the model gives what it gave,
    bit for bit. Source: Hu et al. 2021 (arXiv:2106.09685), section 4.1; the layers are peft's. Deviation: attention and
    MLP layers are adapted alike, the former alone in the paper. The weights themselves are frozen by
    ``apply_freezing``.

    Args:
        model: built, on the CPU; the base of the adapters.
        section: the recipe's ``model``.

    Raises:
        ConfigError: no such layer or block, or a layer that the features do not go through.
        MissingDependencyError: peft is not installed.

    Example:
        >>> from mmcl.models.dual_encoder import build_dual_encoder
        >>> section = ModelSection.model_validate({"text": {"lora": {"rank": 4}}})
        >>> model = build_dual_encoder(section, captions=["a red circle"])
        >>> attach_lora(model, section)
        >>> has_adapters(model.text), has_adapters(model.image)
        (True, False)
    """
    for encoder, tower in ((model.image, section.image), (model.text, section.text)):
        if tower.lora.rank > 0:
            _attach(encoder, tower.lora)


def _attach(encoder: Encoder, section: LoraSection) -> None:
    peft = require("peft", extra="lora")
    side, name = encoder.modality, encoder.tower.spec["name"]
    targets = find_targets(encoder.tower, section)
    config = peft.LoraConfig(
        r=section.rank,
        lora_alpha=section.rank if section.alpha is None else section.alpha,
        lora_dropout=section.dropout,
        target_modules=list(targets),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # peft sets it right itself
            peft.inject_adapter_in_model(config, encoder.tower.model, NAME)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.{side}.lora: {name!r} cannot be adapted ({reason}); name model.{side}.lora.targets"
        ) from error
    _check_reached(encoder, section)
    config.target_modules = targets  # in full: peft shortens a long list to endings
    encoder.lora_config = config
    adapters = sum(p.numel() for _, p in adapter_parameters(encoder))
    log.info("%s tower: LoRA of rank %d in %d layers, %d weights", side, section.rank, len(targets), adapters)


def _check_reached(encoder: Encoder, section: LoraSection) -> None:
    """Some models use a layer's weight without the layer: an adapter of it would be ignored without a word."""
    forget_unused_parameters(encoder)
    unused = unused_parameters(encoder)
    ignored = [name.partition(".lora_")[0] for name, p in adapter_parameters(encoder) if id(p) in unused]
    if ignored:
        raise ConfigError(
            f"model.{encoder.modality}.lora: the features do not go through {ignored[0]} of "
            f"{encoder.tower.spec['name']!r}, so that its adapter would do nothing; name "
            f"model.{encoder.modality}.lora.targets without it"
        )


def adapter_parameters(encoder: Encoder) -> list[tuple[str, nn.Parameter]]:
    """Names, in the tower's module, and weights of the adapters of one side; none: an empty list."""
    return [(name, p) for name, p in encoder.tower.model.named_parameters() if ".lora_" in name]


def _adapted_layers(module: nn.Module) -> list[tuple[str, Any]]:
    if "peft" not in sys.modules:  # then nobody can have put one in
        return []
    layer = require("peft", extra="lora").tuners.tuners_utils.BaseTunerLayer
    return [(name, part) for name, part in module.named_modules() if isinstance(part, layer)]


def has_adapters(module: nn.Module) -> bool:
    """Whether some layer is adapted, by ``attach_lora`` or by peft's own functions."""
    return bool(_adapted_layers(module))


def without_adapters(model: DualEncoder) -> DualEncoder:
    """The model with its adapters added into the weights, under the base's own names.

    Args:
        model: stays as it is.

    Returns:
        A copy that needs no peft; ``model`` itself where it has no adapters.
    """
    if not has_adapters(model):
        return model
    merged = copy.deepcopy(model)
    for encoder in (merged.image, merged.text):
        merge_in_place(encoder.tower.model)
        forget_unused_parameters(encoder)
        encoder.lora_config = None
    return merged


def merge_in_place(module: nn.Module) -> nn.Module:
    """Add the adapters within a module into its weights, and take them out of it."""
    for name, layer in _adapted_layers(module):
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(module.get_submodule(parent), last, layer.get_base_layer())
    module.__dict__.pop("peft_config", None)  # peft's mark of an adapted module
    return module
