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
from mmcl.models.open_clip_tower import build_open_clip_half, create_open_clip
from mmcl.models.transformers_tower import (
    TransformersTower,
    image_preprocessing,
    is_dual,
    load_config,
    load_pretrained,
    text_preprocessing,
)


def _head(projection: torch.nn.Module | None, feature_dim: int) -> torch.nn.Module:
    if projection is None:
        return IdentityHead()
    head = LinearHead(feature_dim, projection.out_features, bias=projection.bias is not None)
    head.projection.load_state_dict(projection.state_dict())
    return head


def _logits(scale: Any, bias: Any, source: str) -> dict[str, Any]:
    if not isinstance(scale, Tensor):
        raise ConfigError(f"{source}: the model has no logit_scale; mmcl reads CLIP-like models with two towers")
    value = math.exp(float(scale))
    return {
        "logit_scale": value,
        "logit_scale_max": max(100.0, value),
        "logit_bias": None if bias is None else float(bias),
    }


def dual_encoder_from_transformers(name: str) -> DualEncoder:
    """A CLIP, SigLIP, VisionTextDualEncoder or like model of transformers as a ``DualEncoder``.

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
    full = load_pretrained(name)
    halves = {"image": getattr(full, "vision_model", None), "text": getattr(full, "text_model", None)}
    if None in halves.values():
        raise ConfigError(f"{name!r}: mmcl finds no vision_model and text_model in a {config.model_type} model")
    preprocessings: dict[str, Any] = {
        "image": image_preprocessing(name, config.vision_config, pretrained=True, size=None),
        "text": text_preprocessing(name, config.text_config, max_length=None),
    }
    encoders = {}
    for modality, projection in (("image", "visual_projection"), ("text", "text_projection")):
        tower = TransformersTower(
            halves[modality], modality, preprocessings[modality], default_pooling="pooler", name=name
        )
        encoders[modality] = Encoder(tower, _head(getattr(full, projection, None), tower.feature_dim), pooling="pooler")
    dim = getattr(full, "projection_dim", None) or encoders["image"].tower.feature_dim
    logits = _logits(getattr(full, "logit_scale", None), getattr(full, "logit_bias", None), name)
    return DualEncoder(encoders["image"], encoders["text"], embedding_dim=dim, **logits).eval()


def dual_encoder_from_open_clip(arch: str, checkpoint: str | None) -> DualEncoder:
    """An open_clip model as a ``DualEncoder``; without a checkpoint its weights are random.

    Raises:
        ConfigError: no such architecture or weights.
    """
    full = create_open_clip(arch, checkpoint)
    image, text = (build_open_clip_half(full, arch, modality) for modality in ("image", "text"))
    return DualEncoder(
        Encoder(image, IdentityHead()),
        Encoder(text, IdentityHead()),
        embedding_dim=image.feature_dim,
        **_logits(full.logit_scale, getattr(full, "logit_bias", None), f"open_clip:{arch}"),
    ).eval()
