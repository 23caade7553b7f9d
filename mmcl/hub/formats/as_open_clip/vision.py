"""Image towers of transformers as open_clip's `VisionTransformer`: CLIP, and ViT and DINOv2, which are the same net.

Source: open_clip's ``VisionTransformer`` puts a class token before the patches, adds positions, and may go without the
norm in front (``no_ln_pre``) and with layer scale (``ls_init_value``). Its patches have no bias; one of the source's
tower folds into the positions of the patches.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from mmcl.hub.formats.as_open_clip.half import (
    Half,
    ObstacleError,
    activation,
    bias_before,
    block_sizes,
    cpu_state,
    linear_head,
    square,
    tower_name,
)
from mmcl.hub.formats.weight_names.clip_names import blocks_to_open_clip, clip_to_open_clip
from mmcl.models.encoder import Encoder
from mmcl.models.towers.convolutional_stem import OPTION
from mmcl.models.towers.transformers_tower import TransformersTower

# Pooling of mmcl's -> open_clip's, for towers whose tokens come out of their last layer norm.
_TOKEN_POOLINGS = {"cls": "tok", "mean": "avg"}
# Names of a ViT's or DINOv2's block -> CLIP's.
_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)\.(weight|bias)")
_CLIP_LAYERS = {
    "layernorm_before": "layer_norm1",
    "norm1": "layer_norm1",
    "attention.q_proj": "self_attn.q_proj",
    "attention.k_proj": "self_attn.k_proj",
    "attention.v_proj": "self_attn.v_proj",
    "attention.o_proj": "self_attn.out_proj",
    "layernorm_after": "layer_norm2",
    "norm2": "layer_norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_LAYER_SCALE = re.compile(r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1")


def transformers_image_half(encoder: Encoder) -> Half:
    """An image encoder with a tower of transformers.

    Raises:
        ObstacleError: open_clip has no tower that computes the same.
    """
    config = encoder.tower.model.config
    if config.model_type == "siglip_vision_model":
        from mmcl.hub.formats.as_open_clip.timm_models import siglip_image_half

        return siglip_image_half(encoder)
    if config.model_type not in ("clip_vision_model", "vit", "dinov2", "dinov2_with_registers"):
        raise ObstacleError(
            f"{tower_name(encoder)} is none that open_clip has; it has CLIP's, SigLIP's, ViT, DINOv2 and timm's models"
        )
    if getattr(config, OPTION, False):
        raise ObstacleError(f"{tower_name(encoder)} has a convolutional stem, and open_clip's has not")
    if config.model_type == "dinov2_with_registers":
        return _with_registers(encoder)
    return _clip(encoder) if config.model_type == "clip_vision_model" else _vit(encoder)


def _with_registers(encoder: Encoder) -> Half:
    from mmcl.hub.formats.as_open_clip.register_tokens import registers_half

    tower, config = encoder.tower, encoder.tower.model.config
    entering = _entering(tower)
    prefix, patches = entering.tensor_split([1 + config.num_register_tokens])
    return registers_half(encoder, prefix, patches, _blocks(cpu_state(tower.model), config.num_hidden_layers))


def _config(encoder: Encoder, state: dict[str, Tensor], **further: Any) -> tuple[dict[str, Any], bool]:
    """``vision_cfg``, and whether the blocks use QuickGELU."""
    config = encoder.tower.model.config
    patch = config.patch_size if isinstance(config.patch_size, int) else square(config.patch_size)
    quick_gelu, of_activation = activation(config.hidden_act, tower_name(encoder))
    found = {
        "image_size": square(encoder.tower.preprocessing.size),
        "patch_size": patch,
        **block_sizes(config, state),
        "head_width": config.hidden_size // config.num_attention_heads,
        **of_activation,
        **further,
    }
    return found, quick_gelu


def _clip(encoder: Encoder) -> Half:
    if encoder.pooling != "pooler":
        raise ObstacleError(
            f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip pools CLIP's as CLIP does"
        )
    weight, bias = linear_head(encoder)
    state = clip_to_open_clip(cpu_state(encoder.tower.model), weight, "image")
    if encoder.tower.resizes_positions:
        state |= _embeddings(encoder.tower)
    if bias is not None:
        state["ln_post.bias"] = state["ln_post.bias"] + bias_before(weight, bias, modality="image")
    config, quick_gelu = _config(encoder, state)
    return Half(config, state, quick_gelu)


@torch.no_grad()
def _entering(tower: TransformersTower) -> Tensor:
    """What enters the blocks for an image of zeros (t, f): positions, resized where need be, and what is added."""
    options = {"interpolate_pos_encoding": True} if tower.resizes_positions else {}
    module = tower.model.embeddings
    zeros = torch.zeros(1, 3, *tower.preprocessing.size, device=next(module.parameters()).device)
    training = module.training
    try:
        return module.eval()(zeros, **options)[0].cpu()
    finally:
        module.train(training)


def _embeddings(tower: TransformersTower) -> dict[str, Tensor]:
    """Class token and positions of a tower that has no further tokens; the class token holds its position."""
    found = _entering(tower)  # (1 + patches, f)
    return {
        "class_embedding": found[0].clone(),
        "positional_embedding": torch.cat([torch.zeros_like(found[:1]), found[1:]]),
    }


def _vit(encoder: Encoder) -> Half:
    tower, config = encoder.tower, encoder.tower.model.config
    pool_type = _TOKEN_POOLINGS.get(encoder.pooling)
    if encoder.pooling == "pooler" and config.model_type == "dinov2":
        pool_type = "tok"  # its pooler is the class token behind the layer norm
    if pool_type is None:
        own = "its own pooler, a dense layer and tanh" if encoder.pooling == "pooler" else repr(encoder.pooling)
        raise ObstacleError(f"{tower_name(encoder)} is pooled by {own}, and open_clip pools by 'cls' or 'mean'")
    if getattr(config, "use_swiglu_ffn", False):
        raise ObstacleError(f"{tower_name(encoder)} has SwiGLU blocks, and open_clip's have GELU")
    source = cpu_state(tower.model)
    state = _embeddings(tower) | _blocks(source, config.num_hidden_layers)
    state["conv1.weight"] = source["embeddings.patch_embeddings.projection.weight"]
    weight, bias = linear_head(encoder)
    shift = 0 if bias is None else bias_before(weight, bias, modality="image")
    state |= {
        "ln_post.weight": source["layernorm.weight"],
        "ln_post.bias": source["layernorm.bias"] + shift,
        "proj": weight.T.contiguous(),
    }
    scaled = {"ls_init_value": 1.0} if config.model_type == "dinov2" else {}
    found, quick_gelu = _config(encoder, state, no_ln_pre=True, pool_type=pool_type, **scaled)
    return Half(found, state, quick_gelu)


def _blocks(source: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The blocks of a ViT or DINOv2 under open_clip's names."""
    renamed: dict[str, Tensor] = {}
    scales: dict[str, Tensor] = {}
    for name, value in source.items():
        if (block := _BLOCK.fullmatch(name)) and block[2] in _CLIP_LAYERS:
            renamed[f"encoder.layers.{block[1]}.{_CLIP_LAYERS[block[2]]}.{block[3]}"] = value
        elif scale := _LAYER_SCALE.fullmatch(name):
            scales[f"transformer.resblocks.{scale[1]}.ls_{scale[2]}.gamma"] = value
    for number in range(layers):  # a ViT may do without these biases
        for part in "qkv":
            prefix = f"encoder.layers.{number}.self_attn.{part}_proj"
            if f"{prefix}.weight" in renamed:
                renamed.setdefault(f"{prefix}.bias", torch.zeros(len(renamed[f"{prefix}.weight"])))
    return blocks_to_open_clip(renamed) | scales
