"""CLIP's towers under transformers' and under open_clip's weight names, both directions.

The arithmetic of the two is one; they differ in names, in queries, keys and values (three matrices, or one above the
other in one), and in the projection (a linear layer's weight behind the tower, or its transpose within).
transformers' names are those inside a ``CLIPVisionModel`` or ``CLIPTextModel``, open_clip's those inside ``visual.`` or
``text.`` of a ``CustomTextCLIP``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mmcl.hub.formats.weight_names.fitting import UnfitError

# open_clip's name -> transformers', of what is neither in a block nor the projection.
OUTER_NAMES: dict[str, dict[str, str]] = {
    "image": {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
        "ln_pre.weight": "pre_layrnorm.weight",
        "ln_pre.bias": "pre_layrnorm.bias",
        "ln_post.weight": "post_layernorm.weight",
        "ln_post.bias": "post_layernorm.bias",
    },
    "text": {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final.weight": "final_layer_norm.weight",
        "ln_final.bias": "final_layer_norm.bias",
    },
}
# The same of the layers of a block, each with a weight and a bias.
BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PROJECTION = {"image": "proj", "text": "text_projection"}
_OPEN_CLIP_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_TRANSFORMERS_BLOCK = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_TRANSFORMERS_QKV = re.compile(r"self_attn\.([qkv])_proj\.(weight|bias)")


def clip_to_open_clip(state: Mapping[str, Tensor], projection: Tensor, modality: str) -> dict[str, Tensor]:
    """One tower of a transformers CLIP as the half of an open_clip model that computes the same.

    Args:
        state: the weights of a ``CLIPVisionModel`` or ``CLIPTextModel``, f features wide.
        projection: (d, f), the weight of ``visual_projection`` or ``text_projection``.
        modality: ``"image"`` or ``"text"``.

    Returns:
        The weights of open_clip's ``visual`` or ``text``; tensors that need no change are the given ones.

    Raises:
        UnfitError: a weight that CLIP's tower does not have, or one that is missing.

    Example:
        >>> import transformers
        >>> sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
        >>> tower = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(image_size=8, patch_size=4, **sizes))
        >>> half = clip_to_open_clip(tower.state_dict(), torch.eye(6, 8), "image")
        >>> half["transformer.resblocks.0.attn.in_proj_weight"].shape, half["proj"].shape
        (torch.Size([24, 8]), torch.Size([8, 6]))
    """
    # Checkpoints of earlier versions of transformers hold the numbers of the positions, which are no weights.
    rest = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    found = {ours: rest.pop(theirs) for ours, theirs in OUTER_NAMES[modality].items() if theirs in rest}
    found |= blocks_to_open_clip(rest)
    found[_PROJECTION[modality]] = projection.T.contiguous()
    _check(found, rest, modality, "transformers")
    return found


def clip_from_open_clip(state: Mapping[str, Tensor], modality: str) -> tuple[dict[str, Tensor], Tensor]:
    """One half of an open_clip model as the tower of a transformers CLIP that computes the same.

    Args:
        state: the weights of open_clip's ``visual`` (a ``VisionTransformer``) or ``text`` (a ``TextTransformer``).
        modality: ``"image"`` or ``"text"``.

    Returns:
        The weights of a ``CLIPVisionModel`` or ``CLIPTextModel``, and the projection (d, f); tensors that need no
        change are the given ones.

    Raises:
        UnfitError: a weight that CLIP's tower does not have, or one that is missing.
    """
    rest = dict(state)
    name = _PROJECTION[modality]
    if name in rest:
        projection = rest.pop(name).T.contiguous()
    elif f"{name}.weight" in rest:
        projection = rest.pop(f"{name}.weight")  # a linear layer, as models of transformers' text towers have
    else:
        raise UnfitError(f"the open_clip {modality} half has no projection {name!r}, which CLIP's tower ends in")
    found = {name: rest.pop(name) for name in OUTER_NAMES[modality] if name in rest}
    blocks = blocks_from_open_clip(rest)
    _check(state, rest, modality, "open_clip")
    return {OUTER_NAMES[modality][name]: value for name, value in found.items()} | blocks, projection


def blocks_to_open_clip(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the blocks ``encoder.layers.*`` out of a mapping, and give them as ``transformer.resblocks.*``.

    Raises:
        UnfitError: a block has some of queries, keys and values, and not all.
    """
    ours = {theirs: name for name, theirs in BLOCK_NAMES.items()}
    found: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in rest if _TRANSFORMERS_BLOCK.fullmatch(name)]:
        number, inner = _TRANSFORMERS_BLOCK.fullmatch(name).groups()
        prefix = f"transformer.resblocks.{number}"
        layer, _, kind = inner.rpartition(".")
        if of_qkv := _TRANSFORMERS_QKV.fullmatch(inner):
            part, kind = of_qkv.groups()
            split.setdefault(f"{prefix}.attn.in_proj_{kind}", {})[part] = rest.pop(name)
        elif layer in ours:
            found[f"{prefix}.{ours[layer]}.{kind}"] = rest.pop(name)
    for name, parts in split.items():
        if set(parts) != set("qkv"):
            raise UnfitError(f"weights for {name} are incomplete: there are {', '.join(sorted(parts))} of q, k, v")
        found[name] = torch.cat([parts[part] for part in "qkv"])
    return found


def blocks_from_open_clip(rest: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take the blocks ``transformer.resblocks.*`` out of a mapping, and give them as ``encoder.layers.*``."""
    found: dict[str, Tensor] = {}
    for name in [name for name in rest if _OPEN_CLIP_BLOCK.fullmatch(name)]:
        number, inner = _OPEN_CLIP_BLOCK.fullmatch(name).groups()
        prefix = f"encoder.layers.{number}"
        layer, _, kind = inner.rpartition(".")
        if inner in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = inner.removeprefix("attn.in_proj_")
            for part, value in zip("qkv", rest.pop(name).chunk(3)):
                # Parts of one tensor share its memory, which safetensors does not write.
                found[f"{prefix}.self_attn.{part}_proj.{kind}"] = value.clone()
        elif layer in BLOCK_NAMES:
            found[f"{prefix}.{BLOCK_NAMES[layer]}.{kind}"] = rest.pop(name)
    return found


def _check(found: Mapping[str, Tensor], rest: Mapping[str, Tensor], modality: str, library: str) -> None:
    """That nothing is left over, and nothing is missing; ``found`` in names of open_clip."""
    if rest:
        raise UnfitError(
            f"the {library} {modality} tower is not CLIP's: it has {len(rest)} weights that CLIP's lacks "
            f"({', '.join(sorted(rest)[:3])})"
        )
    missing = [name for name in OUTER_NAMES[modality] if name not in found] + missing_in_blocks(found)
    if missing:
        raise UnfitError(
            f"the {library} {modality} tower is not CLIP's: it lacks {len(missing)} weights that CLIP's has "
            f"({', '.join(missing[:3])}, in open_clip's names)"
        )


def missing_in_blocks(found: Iterable[str]) -> list[str]:
    """What blocks lack, of open_clip's weight names; blocks are numbered from 0 without a gap."""
    inner: dict[int, set[str]] = {}
    for name in found:
        if block := _OPEN_CLIP_BLOCK.fullmatch(name):
            inner.setdefault(int(block[1]), set()).add(block[2])
    whole = {f"{layer}.{kind}" for layer in BLOCK_NAMES for kind in ("weight", "bias")}
    whole |= {"attn.in_proj_weight", "attn.in_proj_bias"}
    return [
        f"transformer.resblocks.{number}.{name}"
        for number in range(max(inner, default=0) + 1)
        for name in sorted(whole - inner.get(number, set()))
    ]
