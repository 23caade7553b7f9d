"""SigLIP's towers under both libraries' names: models of transformers and of open_clip give equal outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.hub.formats.weight_names.siglip_names import siglip_from_open_clip, siglip_to_open_clip

_SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}


def _perturb(module: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms start at zeros and ones, under which a mix-up of names does not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def _transformers_siglip() -> torch.nn.Module:
    from transformers import SiglipConfig, SiglipModel

    vision = _SIZES | {"image_size": 32, "patch_size": 8, "hidden_act": "gelu"}
    text = _SIZES | {"vocab_size": 90, "max_position_embeddings": 12, "hidden_act": "gelu", "projection_size": 32}
    return _perturb(SiglipModel(SiglipConfig(vision_config=vision, text_config=text)))


def _open_clip_halves() -> dict[str, torch.nn.Module]:
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import LayerNorm, TextTransformer
    from timm.models.vision_transformer import VisionTransformer

    trunk = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2.5, class_token=False,
        global_pool="map", num_classes=0,
    )  # fmt: skip
    image = TimmModel.__new__(TimmModel)
    torch.nn.Module.__init__(image)
    image.trunk, image.head = trunk, torch.nn.Sequential()
    text = TextTransformer(
        context_length=12, vocab_size=90, width=32, heads=4, layers=2, mlp_ratio=2.5, output_dim=32,
        no_causal_mask=True, pool_type="last", proj_bias=True,
        norm_layer=lambda width: LayerNorm(width, eps=1e-6),
    )  # fmt: skip
    return {"image": _perturb(image), "text": _perturb(text)}


def _compare(ours: torch.nn.Module, halves: dict[str, torch.nn.Module]) -> None:
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(0, 90, (3, 12))
    with torch.no_grad():
        for wanted, found in (
            (halves["image"](pixels), ours.get_image_features(pixels).pooler_output),
            (halves["text"](ids), ours.get_text_features(ids).pooler_output),
        ):
            torch.testing.assert_close(found, wanted, atol=5e-6, rtol=1e-5)
            assert not torch.allclose(found, wanted.roll(1, 0), atol=1e-2)


def _tower(model: torch.nn.Module, modality: str) -> torch.nn.Module:
    return model.vision_model if modality == "image" else model.text_model


def test_a_siglip_of_transformers_in_open_clip() -> None:
    ours, halves = _transformers_siglip(), _open_clip_halves()
    with pytest.raises(AssertionError):
        _compare(ours, halves)  # two models: nothing agrees yet
    for modality, half in halves.items():
        half.load_state_dict(siglip_to_open_clip(_tower(ours, modality).state_dict(), modality))
    _compare(ours, halves)


def test_an_open_clip_siglip_in_transformers() -> None:
    ours, halves = _transformers_siglip(), _open_clip_halves()
    for modality, half in halves.items():
        _tower(ours, modality).load_state_dict(siglip_from_open_clip(half.state_dict(), modality))
    _compare(ours, halves)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_there_and_back_is_the_same_to_the_bit(modality: str) -> None:
    state: dict[str, Tensor] = _open_clip_halves()[modality].state_dict()
    back = siglip_to_open_clip(siglip_from_open_clip(state, modality), modality)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    storages = [value.untyped_storage().data_ptr() for value in back.values()]
    assert len(set(storages)) == len(storages), "safetensors writes no tensors that share memory"


def test_towers_of_others_are_refused() -> None:
    halves, ours = _open_clip_halves(), _transformers_siglip()
    image, text = halves["image"].state_dict(), halves["text"].state_dict()
    with pytest.raises(ConfigError, match=r"open_clip image tower is not SigLIP's: .* 1 weights .*trunk.cls_token"):
        siglip_from_open_clip(image | {"trunk.cls_token": torch.ones(1, 1, 32)}, "image")
    with pytest.raises(ConfigError, match=r"1 weights that SigLIP's lacks \(trunk.blocks.0.ls1.gamma\)"):
        siglip_from_open_clip(image | {"trunk.blocks.0.ls1.gamma": torch.ones(32)}, "image")
    with pytest.raises(ConfigError, match="lacks 1 weights .*trunk.attn_pool.latent"):
        siglip_from_open_clip({k: v for k, v in image.items() if "latent" not in k}, "image")
    with pytest.raises(ConfigError, match=r"2 weights that SigLIP's lacks \(trunk.attn_pool.q.bias"):
        siglip_from_open_clip({k: v for k, v in image.items() if "attn_pool.kv" not in k}, "image")
    with pytest.raises(ConfigError, match="open_clip text tower is not SigLIP's: it lacks 1 .*text_projection.bias"):
        siglip_from_open_clip({k: v for k, v in text.items() if k != "text_projection.bias"}, "text")
    theirs = ours.vision_model.state_dict()
    with pytest.raises(ConfigError, match="transformers image tower is not SigLIP's: it lacks 4"):
        siglip_to_open_clip({k: v for k, v in theirs.items() if "in_proj" not in k}, "image")
