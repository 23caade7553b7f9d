"""SigLIP's towers under transformers' and under open_clip's weight names, both directions.

open_clip builds SigLIP's image tower of timm's ``VisionTransformer`` with attention pooling, and its text tower of its
own blocks with a linear layer behind. The arithmetic is transformers' own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmcl.hub.formats.weight_names.clip_names import (
    OUTER_NAMES,
    blocks_from_open_clip,
    blocks_to_open_clip,
    missing_in_blocks,
)
from mmcl.hub.formats.weight_names.fitting import UnfitError

_KINDS = ("weight", "bias")
# open_clip's name -> transformers', of layers with a weight and a bias.
_IMAGE_LAYERS = {
    "trunk.patch_embed.proj": "embeddings.patch_embedding",
    "trunk.norm": "post_layernorm",
    "trunk.attn_pool.proj": "head.attention.out_proj",
    "trunk.attn_pool.norm": "head.layernorm",
    "trunk.attn_pool.mlp.fc1": "head.mlp.fc1",
    "trunk.attn_pool.mlp.fc2": "head.mlp.fc2",
}
# open_clip's name -> transformers', of what is not in a block and keeps its values and shape.
_NAMES = {
    "image": {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in _IMAGE_LAYERS.items() for kind in _KINDS}
    | {"trunk.attn_pool.latent": "head.probe"},
    "text": OUTER_NAMES["text"] | {"text_projection.weight": "head.weight", "text_projection.bias": "head.bias"},
}
_POSITIONS = {"trunk.pos_embed": "embeddings.position_embedding.weight"}  # (1, t, f) and (t, f)
_POOLING = "trunk.attn_pool"  # queries alone, keys and values in one; transformers has all three in one
# timm's names within a block -> those of open_clip's own blocks.
_TIMM_BLOCK = re.compile(r"trunk\.blocks\.(\d+)\.(.+)")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_TIMM_LAYERS = {
    "norm1.": "ln_1.",
    "attn.qkv.": "attn.in_proj_",
    "attn.proj.": "attn.out_proj.",
    "norm2.": "ln_2.",
    "mlp.fc1.": "mlp.c_fc.",
    "mlp.fc2.": "mlp.c_proj.",
}


def siglip_to_open_clip(state: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """One tower of a transformers SigLIP as the half of an open_clip model that computes the same.

    Args:
        state: the weights of a ``SiglipVisionModel`` or ``SiglipTextModel``.
        modality: ``"image"`` or ``"text"``.

    Returns:
        The weights of open_clip's ``visual`` (a ``TimmModel``) or ``text``; tensors that need no change are the given
        ones.

    Raises:
        UnfitError: a weight that SigLIP's tower does not have, or one that is missing.
    """
    rest = {name: value for name, value in state.items() if not name.endswith("position_ids")}
    found = blocks_to_open_clip(rest)
    missing = missing_in_blocks(found)
    if modality == "image":
        found = {_with_layers(name, _BLOCK, "trunk.blocks", _BACK): value for name, value in found.items()}
        for ours, theirs in _POSITIONS.items():
            if theirs in rest:
                found[ours] = rest.pop(theirs)[None]
        for kind in _KINDS:
            joined = rest.pop(f"head.attention.in_proj_{kind}", None)
            if joined is not None:
                queries = len(joined) // 3
                found[f"{_POOLING}.q.{kind}"] = joined[:queries].clone()
                found[f"{_POOLING}.kv.{kind}"] = joined[queries:].clone()
    found |= {ours: rest.pop(theirs) for ours, theirs in _NAMES[modality].items() if theirs in rest}
    _check(found, rest, missing, modality, "transformers")
    return found


def siglip_from_open_clip(state: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    """One half of an open_clip model as the tower of a transformers SigLIP that computes the same.

    Args:
        state: the weights of open_clip's ``visual`` (a ``TimmModel``) or ``text`` (a ``TextTransformer``).
        modality: ``"image"`` or ``"text"``.

    Returns:
        The weights of a ``SiglipVisionModel`` or ``SiglipTextModel``; tensors that need no change are the given ones.

    Raises:
        UnfitError: a weight that SigLIP's tower does not have, or one that is missing.
    """
    rest = dict(state)
    if modality == "image":
        rest = {
            _with_layers(name, _TIMM_BLOCK, "transformer.resblocks", _TIMM_LAYERS): value
            for name, value in rest.items()
        }
    missing, given = missing_in_blocks(rest), set(rest)
    found = blocks_from_open_clip(rest)
    if modality == "image":
        for ours, theirs in _POSITIONS.items():
            if ours in rest:
                found[theirs] = rest.pop(ours)[0]
        for kind in _KINDS:
            names = [f"{_POOLING}.{part}.{kind}" for part in ("q", "kv")]
            if all(name in rest for name in names):
                found[f"head.attention.in_proj_{kind}"] = torch.cat([rest.pop(name) for name in names])
    found |= {theirs: rest.pop(ours) for ours, theirs in _NAMES[modality].items() if ours in rest}
    _check(given, rest, missing, modality, "open_clip")
    return found


_BACK = {theirs: ours for ours, theirs in _TIMM_LAYERS.items()}


def _with_layers(name: str, pattern: re.Pattern[str], prefix: str, layers: Mapping[str, str]) -> str:
    """A name within a block under the other library's words; any other name as it is."""
    if block := pattern.fullmatch(name):
        for own, other in layers.items():
            if block[2].startswith(own):
                return f"{prefix}.{block[1]}.{other}{block[2].removeprefix(own)}"
    return name


def _check(
    found: Mapping[str, Tensor] | set[str], rest: Mapping[str, Tensor], missing: list[str], modality: str, library: str
) -> None:
    """That nothing is left over, and nothing is missing; ``found`` in names of open_clip."""
    if rest:
        raise UnfitError(
            f"the {library} {modality} tower is not SigLIP's: it has {len(rest)} weights that SigLIP's lacks "
            f"({', '.join(sorted(rest)[:3])})"
        )
    wanted = [*_NAMES[modality]]
    if modality == "image":
        wanted += [*_POSITIONS, *(f"{_POOLING}.{part}.{kind}" for part in ("q", "kv") for kind in _KINDS)]
    missing = [name for name in wanted if name not in found] + missing
    if missing:
        raise UnfitError(
            f"the {library} {modality} tower is not SigLIP's: it lacks {len(missing)} weights that SigLIP's has "
            f"({', '.join(missing[:3])}, in open_clip's names)"
        )
