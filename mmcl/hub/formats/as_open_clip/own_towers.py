"""Towers that are open_clip's already: as they are, with a linear head folded into the projection that ends them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmcl.hub.formats.as_open_clip.half import Half, ObstacleError, bias_before, cpu_state, linear_head, tower_name
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead


def open_clip_image_half(encoder: Encoder) -> Half:
    """An image encoder with a tower of open_clip.

    Raises:
        ObstacleError: a head that does not fold into the tower's projection.
    """
    whole, state = encoder.tower.spec["config"], cpu_state(encoder.tower.model)
    config = dict(whole["vision_cfg"])
    config.pop("output_tokens", None)  # CoCa's, for its captions
    timm, convolutional = "timm_model_name" in config, isinstance(config.get("layers"), (list, tuple))
    if not isinstance(encoder.head, IdentityHead):
        weight, bias = linear_head(encoder)
        if timm:
            config, state = _into_timm(encoder, config, state, weight, bias)
        elif convolutional:
            state |= _into_linear(state, "attnpool.c_proj", weight, bias)
        else:
            if bias is not None:
                state["ln_post.bias"] = state["ln_post.bias"] + bias_before(
                    weight @ state["proj"].T, bias, modality="image"
                )
            state["proj"] = state["proj"] @ weight.T
    quick_gelu = None if timm or convolutional else bool(whole.get("quick_gelu", False))
    left_out = ("CoCa's decoder, which writes captions, is left out",) if "multimodal_cfg" in whole else ()
    return Half(config, state, quick_gelu, tower_config=encoder.tower.tower_config, notes=left_out)


def _into_linear(state: dict[str, Tensor], name: str, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """A head behind a linear layer, as that layer."""
    found = {f"{name}.weight": weight @ state[f"{name}.weight"]}
    own = state.get(f"{name}.bias")
    terms = [term for term in (None if own is None else weight @ own, bias) if term is not None]
    return found | ({f"{name}.bias": torch.stack(terms).sum(0)} if terms else {})


def _into_timm(
    encoder: Encoder, config: dict[str, Any], state: dict[str, Tensor], weight: Tensor, bias: Tensor | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    proj, pool = config.get("timm_proj", "linear"), config.get("timm_pool", "avg")
    if proj == "none":
        config = config | {"timm_proj": "linear"}
        found = {"head.proj.weight": weight} | ({} if bias is None else {"head.proj.bias": bias})
    elif proj in ("linear", "mlp"):
        found = _into_linear(state, "head.proj" if proj == "linear" else "head.mlp.fc2", weight, bias)
    else:
        raise ObstacleError(
            f"{tower_name(encoder)} ends in timm's pooling {pool!r}, and the image head cannot follow it"
        )
    return config | {"timm_proj_bias": any(name.endswith(".bias") for name in found)}, state | found


def open_clip_text_half(encoder: Encoder) -> Half:
    """A text encoder with a tower of open_clip.

    Raises:
        ObstacleError: a head that does not fold into the tower's projection.
    """
    tower = encoder.tower
    whole, state = tower.spec["config"], cpu_state(tower.model)
    config = dict(whole["text_cfg"])
    config.pop("output_tokens", None)
    of_transformers = bool(config.get("hf_model_name"))
    if not isinstance(encoder.head, IdentityHead):
        weight, bias = linear_head(encoder)
        if of_transformers:
            config, state = _into_transformers(config, state, weight, bias)
        else:
            config, state = _into_projection(config, state, weight, bias)
    tokenizer = tower.preprocessing.tokenizer
    tokenizer = tokenizer if hasattr(tokenizer, "save_pretrained") else None
    if tokenizer is not None and not config.get("hf_tokenizer_name"):  # known by its architecture's name alone
        config["tokenizer_kwargs"] = {"clean": "canonicalize"}
    length = tower.preprocessing.max_length
    if "positional_embedding" in state and tower.model.cls_emb is None:
        state["positional_embedding"] = state["positional_embedding"][:length]
    return Half(
        config | {"context_length": length},
        state,
        None if of_transformers else bool(whole.get("quick_gelu", False)),
        tokenizer=tokenizer,
        tower_config=tower.tower_config,
        tower_id=config.get("hf_model_name"),
    )


def _into_projection(
    config: dict[str, Any], state: dict[str, Tensor], weight: Tensor, bias: Tensor | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A head behind open_clip's ``TextTransformer``, whose projection may have a bias, or be left out."""
    if "text_projection" in state:
        weight = weight @ state.pop("text_projection").T
    elif "text_projection.weight" in state:
        folded = _into_linear(state, "text_projection", weight, bias)
        weight, bias = folded["text_projection.weight"], folded["text_projection.bias"]
    found = (
        {"text_projection": weight.T}
        if bias is None
        else {"text_projection.weight": weight, "text_projection.bias": bias}
    )
    return config | {"proj_type": "linear", "proj_bias": bias is not None}, state | found


def _into_transformers(
    config: dict[str, Any], state: dict[str, Tensor], weight: Tensor, bias: Tensor | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A head behind open_clip's ``HFTextEncoder``, whose projection is a matrix, two with GELU between, or none."""
    if bias is not None:
        raise ObstacleError("the text head has a bias, and open_clip's projection behind transformers' towers has none")
    last = next((name for name in ("proj.weight", "proj.2.weight") if name in state), None)
    if last is None:
        return config | {"hf_proj_type": "linear"}, state | {"proj.weight": weight}
    return config, state | {last: weight @ state[last]}
