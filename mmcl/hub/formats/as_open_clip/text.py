"""Text towers of transformers as open_clip's: CLIP's and SigLIP's as its own transformer, BERT and its like as is.

Source: open_clip's ``HFTextEncoder`` builds a tower with transformers from the config that ``hf_model_name`` leads to,
knows the kinds of ``hf_configs.arch_dict``, and masks what equals the config's ``pad_token_id``.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from torch import Tensor

from mmcl.hub.formats.as_open_clip.half import (
    Half,
    ObstacleError,
    activation,
    bias_before,
    block_sizes,
    cpu_state,
    linear_head,
    tower_name,
)
from mmcl.hub.formats.weight_names.clip_names import clip_to_open_clip
from mmcl.hub.formats.weight_names.siglip_names import siglip_to_open_clip
from mmcl.models.encoder import Encoder
from mmcl.models.towers.convolutional_stem import OPTION

# Pooling of mmcl's -> open_clip's; its max pooling does not run.
_POOLERS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}
# What tells CLIP's tokenizer from others that share its vocabulary.
_PROBES = ("A Photo of 3 dogs' tails, naïve café!", "hello\n  world", "it's 2:30pm, we'll go", "")
_MENDS = (
    "open_clip mends captions before it splits them (HTML entities, curly quotes, runs of spaces) and the source model "
    "does not: captions that mending changes embed as the mended ones do"
)


def transformers_text_half(encoder: Encoder) -> Half:
    """A text encoder with a tower of transformers.

    Raises:
        ObstacleError: open_clip has no tower that computes the same.
    """
    from open_clip.hf_configs import arch_dict

    config = encoder.tower.model.config
    if config.model_type in ("clip_text_model", "siglip_text_model"):
        return _own(encoder)
    if getattr(config, OPTION, False):
        raise ObstacleError(f"{tower_name(encoder)} has a convolutional stem, and open_clip's has not")
    kind = encoder.tower.spec["config"].get("model_type", config.model_type)
    if kind not in arch_dict:
        raise ObstacleError(
            f"{tower_name(encoder)} is none that open_clip has; it has CLIP's, SigLIP's, {', '.join(arch_dict)}"
        )
    return _of_transformers(encoder, arch_dict[kind]["config_names"]["width"])


def _own(encoder: Encoder) -> Half:
    """CLIP's and SigLIP's text towers as open_clip's ``TextTransformer``."""
    tower, config = encoder.tower, encoder.tower.model.config
    siglip = config.model_type == "siglip_text_model"
    if encoder.pooling != "pooler":
        raise ObstacleError(
            f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip pools it by its own token"
        )
    weight, bias = linear_head(encoder)
    source, length = cpu_state(tower.model), tower.preprocessing.max_length
    if siglip:  # a linear layer follows its pooling; the head behind it is one with it
        state = siglip_to_open_clip(source, "text")
        shift = weight @ state["text_projection.bias"]
        bias = shift if bias is None else bias + shift
        weight = weight @ state["text_projection.weight"]
    else:
        state = clip_to_open_clip(source, weight, "text")
    state["positional_embedding"] = state["positional_embedding"][:length]
    if bias is not None:
        state.pop("text_projection", None)
        state |= {"text_projection.weight": weight, "text_projection.bias": bias}
    quick_gelu, of_activation = activation(config.hidden_act, tower_name(encoder))
    tokens, tokenizer = _siglip_tokens(encoder) if siglip else _clip_tokens(encoder)
    found = {
        "context_length": length,
        "vocab_size": config.vocab_size,
        **block_sizes(config, state),
        "heads": config.num_attention_heads,
        "proj_bias": bias is not None,
        **of_activation,
        **tokens,
    }
    return Half(found, state, quick_gelu, tokenizer=tokenizer, notes=(_MENDS,))


def _siglip_tokens(encoder: Encoder) -> tuple[dict[str, Any], Any]:
    if encoder.tower.preprocessing.padding != "max_length":
        raise ObstacleError(f"{tower_name(encoder)} reads captions of many lengths, and open_clip pads them to one")
    return {"no_causal_mask": True, "pool_type": "last"}, encoder.tower.preprocessing.tokenizer


def _clip_tokens(encoder: Encoder) -> tuple[dict[str, Any], Any]:
    """How the end token is found, and the tokenizer that open_clip does not carry itself.

    What stands behind the end token does not matter under a causal mask, so that padding may differ.
    """
    tokenizer, end = encoder.tower.preprocessing.tokenizer, encoder.tower.model.config.eos_token_id
    if is_clip_tokenizer(tokenizer) and end in (2, tokenizer.eos_token_id):
        return {"pool_type": "argmax"}, None
    if end != 2:
        return {"pool_type": "eos", "eos_id": end}, tokenizer
    # Towers of before transformers 4.31 take the highest token.
    if max(tokenizer.get_vocab().values()) == tokenizer.pad_token_id != tokenizer.eos_token_id:
        raise ObstacleError(f"{tower_name(encoder)} pools the highest token, and that is its tokenizer's padding")
    return {"pool_type": "argmax"}, tokenizer


@cache
def _own_tokenizer() -> Any:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()  # reads its vocabulary for a second


def is_clip_tokenizer(tokenizer: Any) -> bool:
    """Whether a Hugging Face tokenizer is the one that open_clip carries itself, ``SimpleTokenizer``."""
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) != 49408 or tokenizer.eos_token_id != 49407:
        return False
    own = _own_tokenizer()
    if any(vocabulary.get(token) != number for token, number in [*own.encoder.items()][:-2]):
        return False
    begin, end = own.sot_token_id, own.eot_token_id
    return all(tokenizer(text)["input_ids"] == [begin, *own.encode(text), end] for text in _PROBES)


def _of_transformers(encoder: Encoder, width_key: str) -> Half:
    """A tower as it is, for open_clip's ``HFTextEncoder``."""
    from transformers import AutoConfig

    tower = encoder.tower
    if encoder.pooling not in _POOLERS:
        raise ObstacleError(
            f"{tower_name(encoder)} is pooled by {encoder.pooling!r}, and open_clip pools by {', '.join(_POOLERS)}"
        )
    values = dict(tower.spec["config"])
    built = AutoConfig.for_model(values.pop("model_type"), **values)
    if built.to_dict().get("is_encoder_decoder") and encoder.pooling == "pooler":
        raise ObstacleError(f"{tower_name(encoder)} is the encoder of two, and open_clip builds those without a pooler")
    if getattr(built, width_key) != tower.feature_dim:
        raise ObstacleError(f"{tower_name(encoder)} gives features of {tower.feature_dim} values, not its {width_key}")
    weight, bias = linear_head(encoder)
    source = cpu_state(tower.model)
    state = {
        f"transformer.{name}": value
        for name, value in source.items()
        if encoder.pooling == "pooler" or not name.startswith("pooler.")
    }
    if bias is not None:
        name = _last_norm(encoder, source)
        state[f"transformer.{name}"] = source[name] + bias_before(weight, bias, modality="text")
    pad = tower.preprocessing.tokenizer.pad_token_id
    config = {
        "hf_model_pretrained": False,
        "hf_pooler_type": _POOLERS[encoder.pooling],
        "hf_proj_type": "linear",
        "context_length": tower.preprocessing.max_length,
        "vocab_size": built.vocab_size,
    }
    return Half(
        config,
        state | {"proj.weight": weight},
        tokenizer=tower.preprocessing.tokenizer,
        tower_config=_tower_config(built, pad, tower_name(encoder)),
        tower_id=tower.spec["name"],
        notes=(_MENDS,),
    )


def _last_norm(encoder: Encoder, source: dict[str, Tensor]) -> str:
    """The bias of the layer norm that a tower's tokens come out of, which takes a head's bias."""
    names = [name for name in source if re.fullmatch(r"encoder\.layer\.\d+\.output\.LayerNorm\.bias", name)]
    if encoder.pooling == "pooler" or not names:
        raise ObstacleError(
            f"the text head has a bias, and open_clip's projection behind {tower_name(encoder)} has none"
        )
    return max(names, key=lambda name: int(name.split(".")[2]))


def _tower_config(config: Any, pad: int, where: str) -> dict[str, Any]:
    """A tower's ``config.json``, its padding token the tokenizer's: open_clip masks what equals it.

    Raises:
        ObstacleError: positions are counted from the config's padding token, and the tokenizer's is another.
    """
    if config.pad_token_id != pad:
        if "bert" not in config.model_type or "roberta" in config.model_type:
            raise ObstacleError(
                f"{where} has the padding token {config.pad_token_id}, and its tokenizer pads with {pad}"
            )
        config.pad_token_id = pad
    values = config.to_diff_dict()
    values.pop("_name_or_path", None)
    return values
