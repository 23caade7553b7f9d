"""Image towers that open_clip builds with timm: timm's own, and SigLIP's where timm has a model of its sizes.

Source: open_clip's ``TimmModel`` calls ``timm.create_model(name)`` and hands it nothing but the pooling and dropout, so
that a model built with other options cannot be said.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmcl.hub.formats.open_clip_half import Half, ObstacleError, cpu_state, linear_head, square, tower_name
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, MlpHead

# Options that only training sees; open_clip leaves them out.
_OF_TRAINING = ("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "patch_drop_rate")
# Pooling of mmcl's -> timm's, of a ViT whose tokens come out of its last layer norm.
_VIT_POOLINGS = {"cls": "token", "mean": "avg", "max": "max"}


def timm_half(encoder: Encoder) -> Half:
    """An image encoder with a tower of timm.

    Raises:
        ObstacleError: open_clip does not build that model, or has no such head.
    """
    tower = encoder.tower
    pool = _check_options(encoder)
    if encoder.pooling != "pooler":
        from timm.models.vision_transformer import VisionTransformer

        normed = isinstance(tower.model, VisionTransformer) and isinstance(tower.model.fc_norm, nn.Identity)
        if not normed or encoder.pooling not in _VIT_POOLINGS:
            raise ObstacleError(
                f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip has timm's own pooling"
            )
        pool = _VIT_POOLINGS[encoder.pooling]
    config = {
        "timm_model_name": tower.spec["name"],
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "image_size": square(tower.preprocessing.size),
    }
    proj, head = _head(encoder)
    trunk = {f"trunk.{name}": value for name, value in cpu_state(tower.model).items()}
    return Half(config | proj, trunk | head)


def _check_options(encoder: Encoder) -> str:
    """The pooling that the tower's options name; '' for the model's own.

    Raises:
        ObstacleError: an option that changes the model.
    """
    import timm

    name = encoder.tower.spec["name"]
    options = {key: value for key, value in encoder.tower.spec["options"].items() if key not in _OF_TRAINING}
    pool = options.pop("global_pool", "")
    size = options.get("img_size")
    own = timm.get_pretrained_cfg(name)
    if size is not None and own is not None and tuple(own.input_size[-2:]) in ((size, size), size):
        options.pop("img_size")
    if options:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise ObstacleError(f"the image tower timm:{name} was built with {given}, and open_clip builds it without")
    return pool


def _head(encoder: Encoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A head as keys of ``vision_cfg``, and its weights."""
    if isinstance(encoder.head, MlpHead):
        return {"timm_proj": "mlp", "timm_proj_bias": True}, _mlp(encoder.head)
    weight, bias = linear_head(encoder)
    state = {"head.proj.weight": weight} | ({} if bias is None else {"head.proj.bias": bias})
    return {"timm_proj": "linear", "timm_proj_bias": bias is not None}, state


def _mlp(head: MlpHead) -> dict[str, Tensor]:
    """A head with one hidden layer as timm's ``Mlp``, whose hidden layer is twice as wide as its output.

    A narrower one is filled up with zeros: a unit that is always 0 stays 0 under GELU.

    Raises:
        ObstacleError: more layers, wider ones, another activation or a layer norm.
    """
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    settings = head.settings
    wide = 2 * linear[-1].out_features
    if len(linear) != 2 or settings["activation"] != "gelu" or settings["norm"] == "layer":
        raise ObstacleError(
            f"the image head has hidden layers {settings['hidden_dims']} with activation {settings['activation']} and "
            f"norm {settings['norm']}; open_clip has one hidden layer with GELU"
        )
    if linear[0].out_features > wide:
        raise ObstacleError(
            f"the image head's hidden layer has {linear[0].out_features} units, and open_clip's at most {wide}"
        )
    first, second = cpu_state(linear[0]), cpu_state(linear[1])
    if settings["norm"] == "batch":
        norm = next(layer for layer in head.layers if isinstance(layer, nn.BatchNorm1d))
        values = cpu_state(norm)
        scale = values["weight"] / (values["running_var"] + norm.eps).sqrt()
        first["weight"] = first["weight"] * scale[:, None]
        first["bias"] = (first["bias"] - values["running_mean"]) * scale + values["bias"]
    spare = wide - linear[0].out_features
    return {
        "head.mlp.fc1.weight": nn.functional.pad(first["weight"], (0, 0, 0, spare)),
        "head.mlp.fc1.bias": nn.functional.pad(first["bias"], (0, spare)),
        "head.mlp.fc2.weight": nn.functional.pad(second["weight"], (0, spare)),
        "head.mlp.fc2.bias": second["bias"],
    }


def siglip_image_half(encoder: Encoder) -> Half:
    """An image encoder with SigLIP's tower of transformers, as the timm model that is the same net.

    Raises:
        ObstacleError: another pooling than SigLIP's own, or timm has no model of its sizes and activation.
    """
    if encoder.pooling != "pooler" or not getattr(encoder.tower.model, "use_head", True):
        raise ObstacleError(
            f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip pools SigLIP's as SigLIP does"
        )
    config = encoder.tower.model.config
    state = _siglip_state(cpu_state(encoder.tower.model), config)
    vision = {
        "timm_model_name": _siglip_name(encoder, state),
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "image_size": square(encoder.tower.preprocessing.size),
    }
    trunk = {f"trunk.{name}": value for name, value in state.items()}
    if isinstance(encoder.head, IdentityHead):
        return Half(vision | {"timm_proj": "none"}, trunk)
    proj, head = _head(encoder)
    return Half(vision | proj, trunk | head)


def _siglip_name(encoder: Encoder, state: dict[str, Tensor]) -> str:
    """The timm model that has these weights and this activation, for images of this size."""
    import timm
    from transformers.activations import ACT2FN

    config, size = encoder.tower.model.config, encoder.tower.preprocessing.size
    probe = torch.linspace(-4, 4, 33)
    wanted = {name: value.shape for name, value in state.items()}
    other = ""
    for name in timm.list_models(f"vit_*_patch{config.patch_size}_siglip_{size[0]}"):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
        found = {key: value.shape for key, value in model.state_dict().items()}
        heads = (model.blocks[0].attn.num_heads, model.attn_pool.num_heads) if "attn_pool.q.weight" in found else ()
        if found != wanted or set(heads) != {config.num_attention_heads} or size[0] != size[1]:
            continue
        same = torch.allclose(model.blocks[0].mlp.act(probe), ACT2FN[config.hidden_act](probe), atol=1e-6)
        if same and model.norm.eps == config.layer_norm_eps:
            return name
        other = f"; timm's {name} has its sizes, but another activation than {config.hidden_act}"
    raise ObstacleError(
        f"{tower_name(encoder)} needs a timm model with SigLIP's attention pooling, width {config.hidden_size}, "
        f"{config.num_hidden_layers} layers, patches of {config.patch_size} and images of {size[0]} pixels, and "
        f"there is none{other}"
    )


def _siglip_state(source: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """SigLIP's weights under the names of timm's ``VisionTransformer`` with map pooling."""
    found = {
        "patch_embed.proj.weight": source["embeddings.patch_embedding.weight"],
        "patch_embed.proj.bias": source["embeddings.patch_embedding.bias"],
        "pos_embed": source["embeddings.position_embedding.weight"][None],
        "attn_pool.latent": source["head.probe"],
    }
    layers = {"norm": "post_layernorm", "attn_pool.proj": "head.attention.out_proj", "attn_pool.norm": "head.layernorm"}
    layers |= {f"attn_pool.mlp.fc{number}": f"head.mlp.fc{number}" for number in (1, 2)}
    for number in range(config.num_hidden_layers):
        block, theirs = f"blocks.{number}", f"encoder.layers.{number}"
        layers |= {f"{block}.norm{part}": f"{theirs}.layer_norm{part}" for part in (1, 2)}
        layers |= {f"{block}.mlp.fc{part}": f"{theirs}.mlp.fc{part}" for part in (1, 2)}
        layers[f"{block}.attn.proj"] = f"{theirs}.self_attn.out_proj"
        for kind in ("weight", "bias"):
            parts = [source[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{block}.attn.qkv.{kind}"] = torch.cat(parts)
    for kind in ("weight", "bias"):
        found |= {f"{ours}.{kind}": source[f"{theirs}.{kind}"] for ours, theirs in layers.items()}
        fused = source[f"head.attention.in_proj_{kind}"]
        found[f"attn_pool.q.{kind}"], found[f"attn_pool.kv.{kind}"] = (
            fused[: config.hidden_size],
            fused[config.hidden_size :],
        )
    return found
