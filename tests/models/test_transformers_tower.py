from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_folders
import torch
from tiny_folders import CAPTIONS

from mmcl.config import TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder, build_tower
from mmcl.models.heads import IdentityHead
from mmcl.models.towers.transformers_loading import quiet_transformers

TOKEN_POOLINGS = {"cls", "mean", "max", "attention"}
# name -> (has a pooler, default pooling)
TEXTS = {
    "bert": (True, "pooler"),
    "roberta": (True, "pooler"),
    "xlm_roberta": (True, "pooler"),
    "mpnet": (True, "pooler"),
    "distilbert": (False, "mean"),
    "modernbert": (False, "mean"),
    "deberta": (False, "mean"),
    "electra": (False, "mean"),
    "t5": (False, "mean"),
}
# name -> (tokens that are no patches, has a class token, has a pooler)
VISIONS = {
    "vit": (1, True, True),
    "deit": (2, True, True),
    "dinov2": (1, True, True),
    "dinov2_registers": (4, True, True),
    "dinov3": (3, True, True),
    "siglip_vision": (0, False, True),
    "clip_vision": (1, True, True),
    "convnext": (0, False, True),
    "convnextv2": (0, False, True),
    "resnet": (0, False, True),
    "swin": (0, False, True),
    "beit": (1, True, True),
    "vit_mae": (1, True, False),
}


def _tower(name, modality, **values):
    return build_tower(TowerSection(name=name, **values), modality).eval()


@pytest.mark.parametrize("name", TEXTS)
def test_text_towers(folder, name):
    has_pooler, default = TEXTS[name]
    tower = _tower(folder(name), "text")
    output = tower(**tower.preprocessing(CAPTIONS))
    assert tower.feature_dim == 32
    assert output.tokens.shape == (4, 15, 32)
    assert (output.pooled is not None) == has_pooler == ("pooler" in tower.poolings)
    assert set(tower.poolings) == TOKEN_POOLINGS | ({"pooler"} if has_pooler else set())
    assert tower.default_pooling == default
    for pooling in tower.poolings:
        assert Encoder(tower, IdentityHead(), pooling=pooling).features(**tower.preprocessing(CAPTIONS)).shape == (
            4,
            32,
        )


@pytest.mark.parametrize("name", VISIONS)
def test_image_towers(folder, images, name):
    prefix, has_cls, has_pooler = VISIONS[name]
    tower = _tower(folder(name), "image")
    pixels = tower.preprocessing(images)
    output = tower(**pixels)
    assert tower.feature_dim == 32
    assert output.tokens.shape[::2] == (4, 32)
    assert (~output.mask).sum(1).tolist() == [prefix] * 4
    assert (output.pooled is not None) == has_pooler
    expected = (
        {"mean", "max", "attention", "grid"} | ({"cls"} if has_cls else set()) | ({"pooler"} if has_pooler else set())
    )
    assert set(tower.poolings) == expected
    assert tower.default_pooling == ("pooler" if has_pooler else "cls")
    for pooling in tower.poolings:
        assert Encoder(tower, IdentityHead(), pooling=pooling).features(**pixels).shape == (4, 32)


def test_cls_needs_a_class_token(folder):
    with pytest.raises(ConfigError, match=r"model.image.pooling is 'cls'.* allows mean, max, attention, grid, pooler"):
        Encoder(_tower(folder("siglip_vision"), "image"), IdentityHead(), pooling="cls")
    tower = _tower(folder("bert"), "text")
    tower.preprocessing.tokenizer.cls_token = None
    assert not tower.preprocessing.starts_with_cls


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "t5"])
@torch.no_grad()
def test_padding_does_not_change_a_row(folder, name):
    tower = _tower(folder(name), "text")
    for pooling in tower.poolings:
        encoder = Encoder(tower, IdentityHead(), pooling=pooling).eval()
        together = encoder(**tower.preprocessing(CAPTIONS))
        alone = torch.cat([encoder(**tower.preprocessing([caption])) for caption in CAPTIONS])
        unmasked = tower.preprocessing(CAPTIONS)
        unmasked["attention_mask"] = torch.ones_like(unmasked["attention_mask"])
        torch.testing.assert_close(together, alone, atol=2e-6, rtol=0, msg=pooling)
        assert (encoder(**unmasked) - alone).abs().max() > 1e-4, f"{pooling}: the mask is what makes them equal"


def test_mean_pooling_is_of_the_words_alone(folder):
    tower = _tower(folder("bert"), "text")
    inputs = tower.preprocessing(CAPTIONS[:2])
    found = Encoder(tower, IdentityHead(), pooling="mean").features(**inputs)
    hidden = tower.model(**inputs).last_hidden_state
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        torch.testing.assert_close(found[row], hidden[row, :length].mean(0))


def test_image_mean_leaves_class_and_register_tokens_out(folder, images):
    tower = _tower(folder("dinov2_registers"), "image")
    pixels = tower.preprocessing(images)
    found = Encoder(tower, IdentityHead(), pooling="mean").features(**pixels)
    hidden = tower.model(**pixels).last_hidden_state
    torch.testing.assert_close(found, hidden[:, 4:].mean(1))
    assert not torch.allclose(found, hidden.mean(1))


@pytest.mark.parametrize("family", ["clip", "siglip", "vtde"])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_half_of_a_dual_model_keeps_its_weights(folder, images, family, modality):
    """The half's features, through the projection that came with it, are the whole model's."""
    from transformers import AutoModel

    with quiet_transformers():
        full = AutoModel.from_pretrained(folder(family)).eval()
    tower = _tower(folder(family), modality)
    inputs = tower.preprocessing(images if modality == "image" else CAPTIONS)
    own = getattr(full, f"get_{modality}_features")(**inputs).pooler_output
    features = tower(**inputs).pooled
    found = features if tower.projection is None else features @ tower.projection.T
    torch.testing.assert_close(found, own, atol=1e-6, rtol=1e-5)
    random = _tower(folder(family), modality, pretrained=False)
    assert not torch.allclose(random(**inputs).pooled, features)


def test_checkpoint_of_another_architecture_is_refused(folder, tmp_path):
    shutil.copytree(folder("bert"), tmp_path / "m")
    from safetensors.torch import load_file, save_file

    weights = {f"elsewhere.{key}": value for key, value in load_file(tmp_path / "m" / "model.safetensors").items()}
    save_file(weights, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks \d+ weights of a BertModel .*would be random"):
        _tower(str(tmp_path / "m"), "text")


def test_checkpoint_without_pooler_is_pooled_otherwise(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    for name, modality, pooling in (("bert", "text", "mean"), ("vit", "image", "cls")):
        path = tmp_path / name
        shutil.copytree(folder(name), path)
        weights = {k: v for k, v in load_file(path / "model.safetensors").items() if "pooler" not in k}
        save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
        assert _tower(str(path), modality).default_pooling == pooling
        assert _tower(folder(name), modality).default_pooling == "pooler"


def test_sentence_transformers_folder_names_its_pooling(folder, tmp_path):
    path = tmp_path / "m"
    shutil.copytree(folder("bert"), path)
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 12}))
    tower = _tower(str(path), "text")
    assert (tower.default_pooling, tower.preprocessing.max_length) == ("max", 12)


def test_max_length_is_what_the_model_reads(folder):
    assert _tower(folder("bert"), "text").preprocessing.max_length == 32
    assert _tower(folder("roberta"), "text").preprocessing.max_length == 32, "34 positions from padding index + 1"
    tower = _tower(folder("roberta"), "text")
    tower(**tower.preprocessing(["a " * 100]))
    assert tower.preprocessing(["a " * 100])["input_ids"].shape == (1, 32)
    assert _tower(folder("bert"), "text", max_length=8).preprocessing(["a " * 100])["input_ids"].shape == (1, 8)
    with pytest.raises(ConfigError, match="max_length is 33.*at most 32"):
        _tower(folder("bert"), "text", max_length=33)
    with pytest.raises(ConfigError, match="max_length is 8.*exactly 16"):
        _tower(folder("siglip"), "text", max_length=8)


def test_tokenizer_without_limits(folder, tmp_path):
    path = Path(shutil.copytree(folder("t5"), tmp_path / "m"))
    tokenizer = tiny_folders.word_tokenizer()
    tokenizer.model_max_length = 10**30
    tokenizer.save_pretrained(path)
    assert _tower(str(path), "text").preprocessing.max_length == 512


@pytest.mark.parametrize("name", ["vit", "siglip_vision", "clip_vision", "dinov2", "convnext"])
def test_image_size_may_differ_from_the_models(folder, images, name):
    tower, own = _tower(folder(name), "image", image_size=64), _tower(folder(name), "image")
    pixels = tower.preprocessing(images)
    assert pixels["pixel_values"].shape == (4, 3, 64, 64)
    assert tower(**pixels).tokens.shape[1] > own(**own.preprocessing(images)).tokens.shape[1]
    random = _tower(folder(name), "image", image_size=64, pretrained=False)
    assert random(**pixels).pooled.shape == (4, 32)


def test_random_weights_and_options(folder):
    wide = _tower(folder("bert"), "text", pretrained=False, options={"hidden_size": 48})
    assert wide.feature_dim == 48
    plain = _tower(folder("bert"), "text", options={"hidden_dropout_prob": 0.0})
    assert plain.model.embeddings.dropout.p == 0.0
    with pytest.raises(ConfigError, match=r"model.text.options.nothing: BertConfig has no such value"):
        _tower(folder("bert"), "text", options={"nothing": 1})


def test_keys_of_the_other_modality_are_refused(folder):
    with pytest.raises(ConfigError, match="model.text.image_size is 64; only image towers"):
        _tower(folder("bert"), "text", image_size=64)
    with pytest.raises(ConfigError, match="model.image.max_length is 64; only text towers"):
        _tower(folder("vit"), "image", max_length=64)


def test_an_image_model_is_no_text_tower(folder, tmp_path):
    path = Path(shutil.copytree(folder("vit"), tmp_path / "m"))
    tiny_folders.word_tokenizer().save_pretrained(path)
    with pytest.raises(ConfigError, match="a ViTModel does not take mmcl's text input"):
        _tower(str(path), "text")
    with pytest.raises(ConfigError, match="tokenizer .*not a usable folder"):
        _tower(folder("vit"), "text")
    with pytest.raises(ConfigError, match="has no preprocessor_config.json"):
        _tower(folder("bert"), "image")


def test_gradient_checkpointing_keeps_gradients(folder):
    grads = []
    for recompute in (False, True):
        tower = _tower(folder("bert"), "text").train()
        for module in tower.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        for parameter in tower.model.embeddings.parameters():
            parameter.requires_grad_(False)  # a frozen stem: the reentrant kind would give the blocks no gradient
        if recompute:
            tower.set_gradient_checkpointing()
        tower(**tower.preprocessing(CAPTIONS)).pooled.square().sum().backward()
        grads.append([p.grad for p in tower.parameters() if p.requires_grad])
    assert all(g is not None and g.abs().sum() > 0 for g in grads[1][::4])
    for plain, recomputed in zip(*grads):
        torch.testing.assert_close(plain, recomputed)


def test_nothing_is_printed_while_loading(folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    _tower(folder("clip"), "image")
    _tower(folder("bert"), "text")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
