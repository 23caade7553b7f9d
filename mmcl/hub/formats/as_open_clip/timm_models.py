"""Image towers that open_clip builds with timm: timm's own, and SigLIP's where timm has a model of its sizes.

Source: open_clip's ``TimmModel`` calls ``timm.create_model(name)`` and hands it nothing but the pooling and dropout. A
model with options is named as a repository, ``hf-hub:owner/name``, whose ``config.json`` tells timm the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmcl.hub.formats.as_open_clip.half import Half, ObstacleError, cpu_state, linear_head, square, tower_name
from mmcl.hub.formats.weight_names.siglip_names import siglip_to_open_clip
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, MlpHead
from mmcl.models.towers.transformers_tower import TransformersTower

# Options that only training sees; open_clip leaves them out.
_OF_TRAINING = ("drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate", "patch_drop_rate")
# The smallest of timm's SigLIP towers; a config tells it other sizes.
_SIGLIP, _SIGLIP_EPS = "vit_base_patch16_siglip_224", 1e-6
# Pooling of mmcl's -> timm's, of a ViT whose tokens come out of its last layer norm.
_VIT_POOLINGS = {"cls": "token", "mean": "avg", "max": "max"}


def timm_half(encoder: Encoder) -> Half:
    """An image encoder with a tower of timm.

    Raises:
        ObstacleError: open_clip does not pool it so, or has no such head.
    """
    tower = encoder.tower
    pool, tower_config = _options(encoder)
    if encoder.pooling != "pooler":
        normed = _is_vit(tower.model) and isinstance(tower.model.fc_norm, nn.Identity)
        if not normed or encoder.pooling not in _VIT_POOLINGS:
            raise ObstacleError(
                f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip's by timm's own"
            )
        pool = _VIT_POOLINGS[encoder.pooling]
    config = {
        "timm_model_name": tower.spec["name"],
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "image_size": square(tower.preprocessing.size),
    }
    proj, head = timm_head(encoder)
    trunk = {f"trunk.{name}": value for name, value in cpu_state(tower.model).items()}
    return Half(config | proj, trunk | head, tower_config=tower_config)


def _is_vit(model: nn.Module) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer)


def _options(encoder: Encoder) -> tuple[str, dict[str, Any] | None]:
    """The pooling that a tower's options name, '' for the model's own; and a config for other options."""
    import timm

    name, size = encoder.tower.spec["name"], encoder.tower.preprocessing.size
    options = {key: value for key, value in encoder.tower.spec["options"].items() if key not in _OF_TRAINING}
    own = timm.get_pretrained_cfg(name)
    if own is not None and tuple(own.input_size[-2:]) == tuple(size):
        options.pop("img_size", None)
    if not options or (set(options) == {"global_pool"} and not _is_vit(encoder.tower.model)):
        return options.get("global_pool", ""), None
    return "", timm_config(name, options, size)


def timm_config(name: str, options: dict[str, Any], size: Sequence[int]) -> dict[str, Any]:
    """What timm reads from a repository's ``config.json`` to build a model with options."""
    import timm

    own = timm.get_pretrained_cfg(name)
    values = {} if own is None else own.to_dict()
    kept = ("pool_size", "fixed_input_size", "crop_pct", "interpolation", "mean", "std")
    return {
        "architecture": name.partition(".")[0],
        "model_args": options,
        "num_classes": 0,
        "pretrained_cfg": {key: values[key] for key in kept if values.get(key) is not None}
        | {"input_size": [3, *size]},
    }


def timm_head(encoder: Encoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
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

    A model of timm's that has its sizes is named; otherwise timm is told the sizes in a config.

    Raises:
        ObstacleError: another pooling than SigLIP's own, or another activation or layer norm than timm has.
    """
    tower, config = encoder.tower, encoder.tower.model.config
    if encoder.pooling != "pooler" or not getattr(tower.model, "use_head", True):
        raise ObstacleError(
            f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip's SigLIP by its own"
        )
    state = siglip_to_open_clip(cpu_state(tower.model), "image")
    if tower.resizes_positions:
        state["trunk.pos_embed"] = _resized_positions(tower)
    activation = timm_activation(encoder)
    known = _siglip_name(encoder, state, activation)
    tower_config = None
    if known is None:
        hidden = len(state["trunk.blocks.0.mlp.fc1.bias"])
        ratio = hidden / config.hidden_size
        options = {
            "img_size": square(tower.preprocessing.size),
            "patch_size": config.patch_size,
            "embed_dim": config.hidden_size,
            "depth": config.num_hidden_layers,
            "num_heads": config.num_attention_heads,
            "mlp_ratio": ratio if int(config.hidden_size * ratio) == hidden else (hidden + 0.5) / config.hidden_size,
            "act_layer": activation,
        }
        tower_config = timm_config(_SIGLIP, options, tower.preprocessing.size)
    vision = {
        "timm_model_name": known or _SIGLIP,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "image_size": square(tower.preprocessing.size),
    }
    proj, head = ({"timm_proj": "none"}, {}) if isinstance(encoder.head, IdentityHead) else timm_head(encoder)
    return Half(vision | proj, state | head, tower_config=tower_config)


@torch.no_grad()
def _resized_positions(tower: TransformersTower) -> Tensor:
    """Positions (1, t, f) for images of the tower's size, as it resizes them itself."""
    module = tower.model.embeddings
    zeros = torch.zeros(1, 3, *tower.preprocessing.size, device=next(module.parameters()).device)
    return (module(zeros, interpolate_pos_encoding=True) - module.patch_embedding.bias).cpu()


def timm_activation(encoder: Encoder) -> str:
    """timm's name of a tower's activation.

    Raises:
        ObstacleError: it has none such, or its layer norm's epsilon is another.
    """
    from timm.layers import get_act_layer
    from transformers.activations import ACT2FN

    config, probe = encoder.tower.model.config, torch.linspace(-4, 4, 33)
    for name in ("gelu_tanh", "gelu", "quick_gelu"):
        same = torch.allclose(get_act_layer(name)()(probe), ACT2FN[config.hidden_act](probe), rtol=0, atol=1e-6)
        if same and config.layer_norm_eps == _SIGLIP_EPS:
            return name
    raise ObstacleError(
        f"{tower_name(encoder)} has activation {config.hidden_act} and layer norm epsilon {config.layer_norm_eps}, "
        f"timm's has GELU and {_SIGLIP_EPS}"
    )


def _siglip_name(encoder: Encoder, state: dict[str, Tensor], activation: str) -> str | None:
    """The model of timm's own that has these weights and this activation, for images of this size; None: none has."""
    import timm
    from timm.layers import get_act_layer

    config, size, probe = encoder.tower.model.config, encoder.tower.preprocessing.size, torch.linspace(-4, 4, 33)
    wanted = {name.removeprefix("trunk."): value.shape for name, value in state.items()}
    for name in timm.list_models(f"vit_*_patch{config.patch_size}_siglip_{size[0]}"):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=0)
        if {key: value.shape for key, value in model.state_dict().items()} != wanted:
            continue
        heads = {model.blocks[0].attn.num_heads, model.attn_pool.num_heads} == {config.num_attention_heads}
        if heads and torch.equal(model.blocks[0].mlp.act(probe), get_act_layer(activation)()(probe)):
            return name
    return None
