"""Dual encoders that others trained, as mmcl's own: CLIP-like models of transformers, and open_clip's."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead
from mmcl.models.towers.open_clip_tower import build_open_clip_half, create_open_clip
from mmcl.models.towers.transformers_inputs import image_preprocessing, text_preprocessing
from mmcl.models.towers.transformers_loading import is_dual, load_config, load_pretrained
from mmcl.models.towers.transformers_tower import projection_of_dual, tower_of_dual


def _head(projection: torch.nn.Linear | None) -> torch.nn.Module:
    if projection is None:
        return IdentityHead()
    head = LinearHead(projection.in_features, projection.out_features, bias=projection.bias is not None)
    head.projection.load_state_dict(projection.state_dict())
    return head


def _logits(full: Any, source: str) -> dict[str, Any]:
    scale, bias = getattr(full, "logit_scale", None), getattr(full, "logit_bias", None)
    if isinstance(scale, Tensor):
        value = math.exp(scale.item())
    elif isinstance(getattr(full, "temperature", None), Tensor):  # ALIGN divides by its temperature
        value = 1 / full.temperature.item()
    else:
        raise ConfigError(f"{source}: the model has no logit_scale; mmcl reads CLIP-like models with two towers")
    return {
        "logit_scale": value,
        "logit_scale_max": max(100.0, value),
        "logit_bias": None if bias is None else bias.item(),
    }


def dual_encoder_from_transformers(name: str) -> DualEncoder:
    """A CLIP, SigLIP, ALIGN, VisionTextDualEncoder or like model of transformers as a ``DualEncoder``.

    Args:
        name: a Hub id or a local folder with a ``config.json``.

    Raises:
        ConfigError: no such model; it cannot be reached; or it has not an image and a text tower of one space.
    """
    config = load_config(name)
    if not is_dual(config):
        raise ConfigError(
            f"{name!r} is a {config.model_type} model: it has not both an image and a text tower. As a tower of a new "
            f"model, name it in model.image.name or model.text.name"
        )
    preprocessings: dict[str, Any] = {
        "image": image_preprocessing(name, config.vision_config, pretrained=True, size=None),
        "text": text_preprocessing(name, config.text_config, max_length=None),
    }
    configs = {"image": config.vision_config.to_dict(), "text": config.text_config.to_dict()}
    full, _ = load_pretrained(name)
    logits = _logits(full, name)
    encoders, dims = {}, set()
    for modality, preprocessing in preprocessings.items():
        tower = tower_of_dual(full, modality, preprocessing, name=name, config=configs[modality])
        layer = projection_of_dual(full, modality)
        encoders[modality] = Encoder(tower, _head(layer), pooling=tower.default_pooling)
        dims.add(tower.feature_dim if layer is None else layer.out_features)
    if len(dims) > 1:
        raise ConfigError(f"{name!r}: its image and text embeddings differ in size ({sorted(dims)})")
    return DualEncoder(encoders["image"], encoders["text"], embedding_dim=dims.pop(), **logits).eval()


def dual_encoder_from_open_clip(arch: str, checkpoint: str | None) -> DualEncoder:
    """An open_clip model as a ``DualEncoder``; without a checkpoint its weights are random.

    Args:
        arch: open_clip's name, or a folder with an ``open_clip_config.json``.
        checkpoint: a tag of pretrained weights or a file; a folder brings its own.

    Raises:
        ConfigError: no such architecture or weights.
    """
    full = create_open_clip(arch, checkpoint)
    image, text = (build_open_clip_half(full, arch, modality) for modality in ("image", "text"))
    return DualEncoder(
        Encoder(image, IdentityHead()),
        Encoder(text, IdentityHead()),
        embedding_dim=image.feature_dim,
        **_logits(full, f"open_clip:{arch}"),
    ).eval()
