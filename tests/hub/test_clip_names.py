"""CLIP's towers under both libraries' names: models of transformers and of open_clip give equal outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmcl.errors import ConfigError
from mmcl.hub.formats.weight_names.clip_names import clip_from_open_clip, clip_to_open_clip

_SIZES = {"hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4}
_CLOSE = {"atol": 2e-6, "rtol": 1e-5}


def _perturb(module: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms start at zeros and ones, under which a mix-up of names does not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module.eval()


def _transformers_clip(act: str):
    from transformers import CLIPConfig, CLIPModel

    vision = {"image_size": 32, "patch_size": 8, "hidden_act": act}
    text = {"vocab_size": 90, "max_position_embeddings": 12, "hidden_act": act, "eos_token_id": 89, "bos_token_id": 88}
    config = CLIPConfig(vision_config=_SIZES | vision, text_config=_SIZES | text, projection_dim=24)
    return _perturb(CLIPModel(config))


def _open_clip(quick_gelu: bool):
    from open_clip.model import CustomTextCLIP

    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 8, "mlp_ratio": 2.5}
    text = {"context_length": 12, "vocab_size": 90, "width": 32, "heads": 4, "layers": 2, "mlp_ratio": 2.5}
    return _perturb(CustomTextCLIP(24, vision, text, quick_gelu=quick_gelu))


def _inputs() -> tuple[Tensor, Tensor]:
    ids = torch.zeros(3, 12, dtype=torch.long)
    for row, length in enumerate((3, 7, 12)):
        ids[row, :length] = torch.randint(1, 88, (length,))
        ids[row, 0], ids[row, length - 1] = 88, 89
    return torch.randn(3, 3, 32, 32), ids


def _compare(ours, theirs) -> None:
    pixels, ids = _inputs()
    with torch.no_grad():
        for wanted, found in (
            (theirs.visual(pixels), ours.get_image_features(pixels).pooler_output),
            (theirs.text(ids), ours.get_text_features(ids).pooler_output),
        ):
            torch.testing.assert_close(found, wanted, **_CLOSE)
            assert not torch.allclose(found, wanted.roll(1, 0), atol=1e-2)


@pytest.mark.parametrize(("act", "quick_gelu"), [("gelu", False), ("quick_gelu", True)])
def test_a_clip_of_transformers_in_open_clip(act, quick_gelu):
    ours, theirs = _transformers_clip(act), _open_clip(quick_gelu)
    with pytest.raises(AssertionError):
        _compare(ours, theirs)  # two models: nothing agrees yet
    for modality, half, tower, projection in (
        ("image", theirs.visual, ours.vision_model, ours.visual_projection),
        ("text", theirs.text, ours.text_model, ours.text_projection),
    ):
        half.load_state_dict(clip_to_open_clip(tower.state_dict(), projection.weight.detach(), modality))
    _compare(ours, theirs)


@pytest.mark.parametrize(("act", "quick_gelu"), [("gelu", False), ("quick_gelu", True)])
def test_an_open_clip_model_in_transformers(act, quick_gelu):
    ours, theirs = _transformers_clip(act), _open_clip(quick_gelu)
    for modality, half, tower, projection in (
        ("image", theirs.visual, ours.vision_model, ours.visual_projection),
        ("text", theirs.text, ours.text_model, ours.text_projection),
    ):
        state, weight = clip_from_open_clip(half.state_dict(), modality)
        tower.load_state_dict(state)
        projection.weight.data.copy_(weight)
    _compare(ours, theirs)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_there_and_back_is_the_same_to_the_bit(modality):
    half = getattr(_open_clip(False), "visual" if modality == "image" else "text")
    there, projection = clip_from_open_clip(half.state_dict(), modality)
    back = clip_to_open_clip(there, projection, modality)
    assert back.keys() == half.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in half.state_dict().items())
    again, weight = clip_from_open_clip(back, modality)
    assert again.keys() == there.keys()
    assert torch.equal(weight, projection)
    assert all(torch.equal(again[name], value) for name, value in there.items())


def test_a_projection_that_is_a_linear_layer():
    state = dict(_open_clip(False).text.state_dict())
    _, of_matrix = clip_from_open_clip(state, "text")
    state["text_projection.weight"] = state.pop("text_projection").T
    _, of_layer = clip_from_open_clip(state, "text")
    assert torch.equal(of_layer, of_matrix)
    state["text_projection.bias"] = torch.zeros(24)
    with pytest.raises(ConfigError, match=r"text tower is not CLIP's: it has 1 weights .* \(text_projection.bias\)"):
        clip_from_open_clip(state, "text")


def test_parts_share_no_memory():
    there, _ = clip_from_open_clip(_open_clip(False).visual.state_dict(), "image")
    parts = [there[f"encoder.layers.0.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert len({part.untyped_storage().data_ptr() for part in parts}) == 3


def test_earlier_checkpoints_hold_position_ids():
    tower = _transformers_clip("gelu").text_model
    state = tower.state_dict() | {"embeddings.position_ids": torch.arange(12)[None]}
    assert "positional_embedding" in clip_to_open_clip(state, torch.eye(32), "text")


def test_towers_of_others_are_refused():
    tower, half = _transformers_clip("gelu").vision_model.state_dict(), _open_clip(False).visual.state_dict()
    eye = torch.eye(32)
    with pytest.raises(ConfigError, match=r"transformers image tower is not CLIP's: .* 1 weights .*\(head.weight"):
        clip_to_open_clip(tower | {"head.weight": eye}, eye, "image")
    with pytest.raises(ConfigError, match="it lacks 2 weights .*ln_pre.weight, ln_pre.bias"):
        clip_to_open_clip({k: v for k, v in tower.items() if "pre_layrnorm" not in k}, eye, "image")
    with pytest.raises(ConfigError, match=r"open_clip image tower is not CLIP's: it has 2 weights .*ls_1.gamma"):
        clip_from_open_clip(
            dict(half) | {f"transformer.resblocks.{i}.ls_1.gamma": torch.ones(32) for i in (0, 1)}, "image"
        )
    with pytest.raises(ConfigError, match="has no projection 'proj'"):
        clip_from_open_clip({k: v for k, v in half.items() if k != "proj"}, "image")
    with pytest.raises(ConfigError, match="incomplete: there are k, v of q, k, v"):
        clip_to_open_clip({k: v for k, v in tower.items() if "0.self_attn.q_proj.weight" not in k}, eye, "image")
    with pytest.raises(ConfigError, match="lacks 12 weights .*resblocks.0"):
        clip_from_open_clip({k: v for k, v in half.items() if "resblocks.0." not in k}, "image")
