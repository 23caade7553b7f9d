"""Dual models that others trained give the embeddings their own code gives."""

from __future__ import annotations

import pytest
import tiny_folders
import torch
from tiny_folders import CAPTIONS
from torch.nn.functional import normalize

from mmcl.errors import ConfigError
from mmcl.models.opening.dual_sources import dual_encoder_from_transformers
from mmcl.models.towers.transformers_loading import quiet_transformers

_TEXT = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
_VISION = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
           "intermediate_size": 48}  # fmt: skip
_POSITIONS = {"max_position_embeddings": 34}
# name -> (config class, values, pooling of the text tower)
OTHERS = {
    "chinese_clip": ("ChineseCLIPConfig", {"text_config": _TEXT | _POSITIONS, "projection_dim": 24}, "cls"),
    "align": (
        "AlignConfig",
        {
            "vision_config": {
                "image_size": 32,
                "width_coefficient": 0.1,
                "depth_coefficient": 0.1,
                "hidden_dim": 32,
                "initializer_range": 0.4,
            },
            "text_config": _TEXT | _POSITIONS,
            "projection_dim": 32,
            "temperature_init_value": 0.25,
        },
        "cls",
    ),
    "alt_clip": (
        "AltCLIPConfig",
        {"text_config": _TEXT | _POSITIONS | {"pad_token_id": 0, "project_dim": 32}, "projection_dim": 24},
        "pooler",
    ),
    "siglip_projected": (
        "SiglipConfig",
        {"text_config": _TEXT | {"max_position_embeddings": 16, "hidden_size": 16, "projection_size": 32}},
        "pooler",
    ),
}


def _save(path, name):
    import transformers

    kind, values, _ = OTHERS[name]
    config = getattr(transformers, kind)(**({"vision_config": _VISION} | values))
    transformers.AutoModel.from_config(config).save_pretrained(str(path))
    tiny_folders.save_processor(path, "vit")
    tokenizer = tiny_folders.word_tokenizer()
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(str(path))
    return str(path)


@torch.no_grad()
def _compare(path, images):
    from transformers import AutoModel

    with quiet_transformers():
        full = AutoModel.from_pretrained(path).eval()
    model = dual_encoder_from_transformers(path)
    for modality, items in (("image", images), ("text", CAPTIONS)):
        encoder = model.encoder(modality)
        inputs = encoder.tower.preprocessing(items)
        own = getattr(full, f"get_{modality}_features")(**inputs)
        own = normalize(own if isinstance(own, torch.Tensor) else own.pooler_output, dim=-1)
        torch.testing.assert_close(encoder(**inputs), own, atol=2e-6, rtol=0)
        assert encoder(**inputs).shape == (4, model.embedding_dim)
        assert not torch.allclose(encoder(**inputs), own.flip(0), atol=1e-3)
    return full, model


@pytest.mark.parametrize("family", ["clip", "siglip", "vtde"])
def test_usual_families(folder, images, family):
    full, model = _compare(folder(family), images)
    assert model.logit_scale.item() == pytest.approx(full.logit_scale.exp().item(), rel=1e-6)
    assert (model.logit_bias is not None) == (family == "siglip")
    if family == "siglip":
        assert model.logit_bias.item() == pytest.approx(full.logit_bias.item())
        assert model.text.tower.preprocessing(["a"])["input_ids"].shape == (1, 16)
        assert "attention_mask" not in model.text.tower.preprocessing(["a"])


@pytest.mark.parametrize("name", OTHERS)
def test_families_with_poolings_of_their_own(images, tmp_path, name):
    with quiet_transformers():
        path = _save(tmp_path, name)
    _, model = _compare(path, images)
    assert model.text.pooling == OTHERS[name][2]
    if name == "align":
        assert model.logit_scale.item() == pytest.approx(4.0), "it divides by its temperature"


def test_shared_space_that_cannot_be_followed(images, tmp_path, monkeypatch):
    import transformers

    with quiet_transformers():
        path = _save(tmp_path, "chinese_clip")
    monkeypatch.setattr(
        transformers.ChineseCLIPModel, "get_text_features", lambda self, input_ids, **_: torch.zeros(len(input_ids), 24)
    )
    with pytest.raises(ConfigError, match="cannot follow how a ChineseCLIPModel makes text embeddings"):
        dual_encoder_from_transformers(path)


def test_models_with_one_tower_are_named(folder):
    for name, kind in (("bert", "bert"), ("vit", "vit")):
        with pytest.raises(ConfigError, match=f"is a {kind} model: it has not both an image and a text tower"):
            dual_encoder_from_transformers(folder(name))
