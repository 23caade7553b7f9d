"""DINOv2 with register tokens of transformers, as the timm model that is the same net.

open_clip's own image tower has a class token and no others. Source: Darcet et al. 2023 (arXiv:2309.16588); timm puts
registers between the class token and the patches, as transformers does.
"""

from __future__ import annotations

from torch import Tensor

from mmcl.hub.formats.as_open_clip.half import Half, ObstacleError, block_sizes, cpu_state, square, tower_name
from mmcl.hub.formats.as_open_clip.timm_models import timm_activation, timm_config, timm_head
from mmcl.models.encoder import Encoder

_ARCHITECTURE = "vit_small_patch14_reg4_dinov2"  # the smallest; a config tells it other sizes
_POOLINGS = {"pooler": "token", "cls": "token", "mean": "avg", "max": "max"}
# Names within a block: open_clip's -> timm's.
_LAYERS = {
    "ln_1.": "norm1.",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "ls_1.": "ls1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "ls_2.": "ls2.",
}


def registers_half(encoder: Encoder, prefix: Tensor, patches: Tensor, blocks: dict[str, Tensor]) -> Half:
    """An image encoder with such a tower.

    Args:
        encoder: the encoder.
        prefix: (1 + r, f), class token and registers as they enter the blocks.
        patches: (n, f), what enters them for the patches of an image of zeros.
        blocks: their weights under open_clip's names.

    Raises:
        ObstacleError: another pooling, activation or layer norm than timm's.
    """
    config, size = encoder.tower.model.config, encoder.tower.preprocessing.size
    pool = _POOLINGS.get(encoder.pooling)
    if pool is None or getattr(config, "use_swiglu_ffn", False):
        raise ObstacleError(
            f"{tower_name(encoder)} is pooled by {encoder.pooling!r} or has SwiGLU; open_clip has neither"
        )
    source = cpu_state(encoder.tower.model)
    bias = source["embeddings.patch_embeddings.projection.bias"]
    state = {
        "cls_token": prefix[None, :1],
        "reg_token": prefix[None, 1:],
        "pos_embed": (patches - bias)[None],
        "patch_embed.proj.weight": source["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": bias,
        "norm.weight": source["layernorm.weight"],
        "norm.bias": source["layernorm.bias"],
    }
    for name, value in blocks.items():
        number, inner = name.removeprefix("transformer.resblocks.").split(".", 1)
        theirs = next(theirs + inner.removeprefix(ours) for ours, theirs in _LAYERS.items() if inner.startswith(ours))
        state[f"blocks.{number}.{theirs}"] = value
    options = {
        "img_size": square(size),
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": block_sizes(config, blocks)["mlp_ratio"],
        "reg_tokens": len(prefix) - 1,
        "act_layer": timm_activation(encoder),
    }
    vision = {
        "timm_model_name": _ARCHITECTURE,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "image_size": square(size),
    }
    proj, head = timm_head(encoder)
    trunk = {f"trunk.{name}": value for name, value in state.items()}
    return Half(vision | proj, trunk | head, tower_config=timm_config(_ARCHITECTURE, options, size))
