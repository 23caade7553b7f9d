"""open_clip's halves that are CLIP's or SigLIP's, as towers of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmcl.hub.formats.as_transformers.halves import Half
from mmcl.hub.formats.as_transformers.open_clip_tokens import SpecialTokens, special_tokens
from mmcl.hub.formats.weight_names.clip_names import clip_from_open_clip
from mmcl.hub.formats.weight_names.fitting import UnfitError
from mmcl.hub.formats.weight_names.siglip_names import siglip_from_open_clip
from mmcl.models.encoder import Encoder

# A module's class -> the name that transformers gives its activation; nn.GELU may be either of two.
_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh"}


def open_clip_half(encoder: Encoder, head: Tensor | None) -> Half:
    """One half of an open_clip model as a ``CLIPVisionModel``, ``CLIPTextModel``, or SigLIP's.

    Args:
        encoder: with an ``OpenClipTower``.
        head: (d, d') of mmcl's own head behind it; None for none.

    Raises:
        UnfitError: the half is built otherwise than CLIP's and SigLIP's.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import TextTransformer, VisionTransformer

    module, modality = encoder.tower.model, encoder.modality
    if type(module) is VisionTransformer:
        config = _clip_image_config(module)
    elif type(module) is TimmModel:
        config = _siglip_image_config(module)
    elif type(module) is TextTransformer:
        config = _text_config(module, special_tokens(encoder.tower.preprocessing))
    else:
        raise UnfitError(f"the {modality} tower is open_clip's {type(module).__name__}, for which there is no class")
    source = module.state_dict()
    is_clip = config.model_type.startswith("clip")
    # open_clip multiplies from the right.
    own = (module.proj if modality == "image" else module.text_projection).T if is_clip else None
    convert = partial(_clip_tower, modality=modality) if is_clip else partial(siglip_from_open_clip, modality=modality)
    dim = encoder.tower.feature_dim if head is None else head.shape[0]
    width = config.hidden_size if is_clip else encoder.tower.feature_dim
    return Half(modality, config, "pooler", width, dim, source, convert, own, head, is_converted=True)


def _clip_tower(state: Mapping[str, Tensor], modality: str) -> dict[str, Tensor]:
    return clip_from_open_clip(state, modality)[0]


def _clip_image_config(module: Any) -> Any:
    from transformers import CLIPVisionConfig

    _refuse_unless("image", module.attn_pool is None, "pools by attention (attentional_pool)")
    pools = f"pools its tokens by {module.pool_type!r}, not by the class token"
    _refuse_unless("image", module.pool_type == "tok", pools)
    _refuse_unless("image", not isinstance(module.ln_pre, nn.Identity), "has no norm before its blocks (no_ln_pre)")
    _refuse_unless("image", module.proj is not None, "ends without a projection")
    return CLIPVisionConfig(
        **_squares(module.image_size, module.patch_size),
        projection_dim=module.proj.shape[1],
        **_block_values(module.transformer, "image", (module.ln_pre, module.ln_post)),
    )


def _siglip_image_config(module: Any) -> Any:
    from timm.layers import AttentionPoolLatent
    from timm.models.vision_transformer import VisionTransformer
    from transformers import SiglipVisionConfig

    trunk = module.trunk
    name = trunk.default_cfg.get("architecture") or type(trunk).__name__
    _refuse_unless("image", type(trunk) is VisionTransformer, f"is timm's {name}, for which there is no class")
    pool = getattr(trunk, "attn_pool", None)
    plain = isinstance(pool, AttentionPoolLatent) and pool.latent_len == 1 and trunk.num_prefix_tokens == 0
    _refuse_unless("image", plain, f"is timm's {name}, which does not pool by attention as SigLIP does")
    _refuse_unless("image", len(module.head) == 0, "projects behind timm's tower (timm_proj), which SigLIP does not")
    block = trunk.blocks[0]
    _refuse_unless("image", pool.num_heads == block.attn.num_heads, "pools with more or fewer heads than its blocks")
    activations = {_activation(part.mlp.act) for part in (*trunk.blocks, pool)}
    norms = [norm for part in trunk.blocks for norm in (part.norm1, part.norm2)] + [trunk.norm, pool.norm]
    return SiglipVisionConfig(
        **_squares(trunk.patch_embed.img_size, trunk.patch_embed.patch_size),
        hidden_size=trunk.embed_dim,
        intermediate_size=block.mlp.fc1.out_features,
        num_hidden_layers=len(trunk.blocks),
        num_attention_heads=block.attn.num_heads,
        hidden_act=_only("image", activations, "activation"),
        layer_norm_eps=_only("image", {norm.eps for norm in norms}, "epsilon of its norms"),
    )


def _squares(image: Sequence[int], patch: Sequence[int]) -> dict[str, int]:
    fits = len(set(image)) == 1 and len(set(patch)) == 1
    _refuse_unless("image", fits, f"reads {tuple(image)} pixels in patches of {tuple(patch)}, no squares")
    return {"image_size": image[0], "patch_size": patch[0]}


def _text_config(module: Any, tokens: SpecialTokens) -> Any:
    """CLIP's where the mask is causal, SigLIP's where there is none."""
    from transformers import CLIPTextConfig, SiglipTextConfig

    _refuse_unless("text", module.cls_emb is None, "has a class token (CoCa's embed_cls)")
    _refuse_unless("text", module.text_projection is not None, "ends without a projection")
    bias = getattr(module.text_projection, "bias", None)
    values = {
        "vocab_size": module.token_embedding.num_embeddings,
        "max_position_embeddings": module.num_pos,
        "bos_token_id": tokens.begin,
        "eos_token_id": tokens.end,
        "pad_token_id": tokens.pad,
        **_block_values(module.transformer, "text", (module.ln_final,)),
    }
    if module.attn_mask is None:
        _refuse_unless("text", not module.use_pad_mask, "masks its padding, which SigLIP does not")
        _refuse_unless("text", module.pool_type == "last", f"sees later tokens, and pools by {module.pool_type!r}")
        _refuse_unless("text", bias is not None, "projects without a bias, which SigLIP's does not")
        return SiglipTextConfig(projection_size=module.text_projection.out_features, **values)
    _refuse_unless("text", module.pool_type in ("argmax", "eos"), f"pools its tokens by {module.pool_type!r}")
    _refuse_unless("text", bias is None, "projects with a bias (proj_bias), which CLIP's does not")
    values["eos_token_id"] = _end_token(module, tokens)
    return CLIPTextConfig(projection_dim=module.output_dim, **values)


def _end_token(module: Any, tokens: SpecialTokens) -> int:
    """What makes transformers pool where open_clip does: the first token of that number; at 2 the greatest number."""
    if module.pool_type == "eos":
        _refuse_unless("text", module.eos_id != 2, "ends in token 2, by which transformers means another pooling")
        return module.eos_id
    return tokens.end if tokens.end_is_greatest else 2


def _block_values(transformer: nn.Module, modality: str, norms: tuple[nn.Module, ...]) -> dict[str, Any]:
    from open_clip.transformer import ResidualAttentionBlock

    blocks = [*transformer.resblocks]
    plain = all(type(block) is ResidualAttentionBlock for block in blocks)
    _refuse_unless(modality, plain, f"has blocks of a kind of its own ({type(blocks[0]).__name__})")
    scaled = any(not isinstance(block.ls_1, nn.Identity) for block in blocks)
    _refuse_unless(modality, not scaled, "scales its layers (ls_init_value)")
    epsilons = {norm.eps for block in blocks for norm in (block.ln_1, block.ln_2)} | {norm.eps for norm in norms}
    return {
        "hidden_size": transformer.width,
        "intermediate_size": blocks[0].mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
        "hidden_act": _only(modality, {_activation(block.mlp.gelu) for block in blocks}, "activation"),
        "layer_norm_eps": _only(modality, epsilons, "epsilon of its norms"),
    }


def _activation(module: nn.Module) -> str | None:
    if isinstance(module, nn.GELU) and module.approximate == "tanh":
        return "gelu_pytorch_tanh"
    return _ACTIVATIONS.get(type(module).__name__)


def _only(modality: str, values: set[Any], what: str) -> Any:
    """The one value that all have."""
    _refuse_unless(modality, len(values) == 1 and None not in values, f"has not one {what} that transformers knows")
    return values.pop()


def _refuse_unless(modality: str, fits: bool, what: str) -> None:
    if not fits:
        raise UnfitError(f"the {modality} tower, open_clip's, {what}")
