from __future__ import annotations

import math

import pytest
import torch
from transformers import CLIPTextConfig

from mmcl.config import ModelSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.models.encoder import ENCODERS, build_tower
from mmcl.models.saving import from_pretrained, save_pretrained
from mmcl.models.towers.convolutional_stem import build_with_stem
from mmcl.models.towers.tiny_tower import TINY_BERT, TINY_VIT, word_tokenizer
from mmcl.models.towers.tower import tower_parts

CAPTIONS = ["a red circle", "Two blue squares, and a DOG!"]


@pytest.fixture(scope="module")
def model():
    return build_dual_encoder(ModelSection(), captions=CAPTIONS)


def test_default_model(model):
    assert model.embedding_dim == 256
    tokens = model.text.tower.preprocessing(CAPTIONS)
    assert model.encode_image(pixel_values=torch.randn(2, 3, 64, 64)).shape == (2, 256)
    assert model.encode_text(**tokens).shape == (2, 256)
    assert model.logit_scale.item() == pytest.approx(1 / 0.07)
    assert model.logit_scale.shape == (1,)
    assert model.logit_bias is None
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
    model.text.requires_grad_(False)
    assert model.num_parameters(trainable=True) == model.num_parameters() - sum(
        p.numel() for p in model.text.parameters()
    )
    model.text.requires_grad_(True)


def test_scale_is_clamped_from_above_alone(model):
    with torch.no_grad():
        model.log_logit_scale.fill_(math.log(150.0))
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(100.0)
    with torch.no_grad():
        model.log_logit_scale.fill_(math.log(0.5))
    model.clamp_logit_scale()
    assert model.logit_scale.item() == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [0.0, -1.0, 101.0, math.nan])
def test_scale_errors(model, scale):
    with pytest.raises(ConfigError, match="model.logit_scale is .* want 0 < logit_scale <= 100"):
        DualEncoder(model.image, model.text, embedding_dim=256, logit_scale=scale)


def test_tiny_towers_take_options():
    tower = build_tower(TowerSection(image_size=32, options={"hidden_size": 64, "num_hidden_layers": 1}), "image")
    assert (tower.feature_dim, tower.preprocessing.size) == (64, (32, 32))
    assert (TINY_VIT["hidden_size"], TINY_BERT["hidden_size"]) == (128, 128), "the defaults stay"
    text = build_tower(TowerSection(max_length=100), "text", captions=CAPTIONS)
    assert text.preprocessing(["a " * 300])["input_ids"].shape == (1, 100)
    with pytest.raises(ConfigError, match=r"max_length is 200; the tiny tower reads at most 128 .*max_position"):
        build_tower(TowerSection(max_length=200), "text", captions=CAPTIONS)
    with pytest.raises(ConfigError, match=r"model.image.options.widht: ViTConfig has no such value"):
        build_tower(TowerSection(options={"widht": 3}), "image")


def test_convolutional_stem(images):
    plain, stem = (
        build_tower(TowerSection(options={"convolutional_stem": on}), "image").eval() for on in (False, True)
    )
    pixels = plain.preprocessing(images)
    assert stem(**pixels).tokens.shape == plain(**pixels).tokens.shape
    parts = tower_parts(stem)
    assert len(parts.stem) == len(tower_parts(plain).stem) + 8, "two more convolutions, two norms"
    with pytest.raises(ConfigError, match="patch_size is 6; the stem wants a multiple of 4"):
        build_tower(TowerSection(image_size=24, options={"convolutional_stem": True, "patch_size": 6}), "image")


def test_a_text_stem_joins_neighbours_and_does_not_see_padding():
    section = TowerSection(options={"convolutional_stem": True, "num_hidden_layers": 1})
    tower = build_tower(section, "text", captions=CAPTIONS).eval()
    stem, tokenize = tower.model.embeddings, tower.preprocessing
    short = "a red circle"
    alone, padded = tokenize([short]), tokenize([short, "a red circle beside a dog and a dog and a dog"])
    length = alone["input_ids"].shape[1]
    assert padded["input_ids"].shape[1] > length
    torch.testing.assert_close(tower(**padded).tokens[:1, :length], tower(**alone).tokens, atol=1e-5, rtol=1e-5)
    # A word's embedding depends on its neighbours, which a plain BERT's does not.
    first, second = (stem(tokenize([text])["input_ids"])[0, 3] for text in ("a red circle", "a dog circle"))
    assert not torch.allclose(first, second, atol=1e-3)
    plain = build_tower(TowerSection(options={"num_hidden_layers": 1}), "text", captions=CAPTIONS).eval()
    first, second = (
        plain.model.embeddings(tokenize([text])["input_ids"])[0, 3] for text in ("a red circle", "a dog circle")
    )
    torch.testing.assert_close(first, second)
    with pytest.raises(ConfigError, match="a clip_text_model has no convolutional stem"):
        build_with_stem(CLIPTextConfig())


def test_a_model_with_both_stems_is_saved_and_loaded(tmp_path, images):
    options = {"convolutional_stem": True, "num_hidden_layers": 1}
    section = ModelSection(
        image=TowerSection(options=options, pooling="grid"),
        text=TowerSection(options=options, pooling="mean"),
        embedding_dim=8,
    )
    model = build_dual_encoder(section, captions=CAPTIONS).eval()
    torch.nn.init.normal_(model.image.learned_pooling.places.weight)
    save_pretrained(model, tmp_path / "model")
    again = from_pretrained(tmp_path / "model").eval()
    pixels, tokens = model.image.tower.preprocessing(images), model.text.tower.preprocessing(CAPTIONS)
    assert torch.equal(model.encode_image(**pixels), again.encode_image(**pixels))
    assert torch.equal(model.encode_text(**tokens), again.encode_text(**tokens))


def test_resize_override(folder):
    section = ModelSection(image=TowerSection(name=folder("clip_vision"), resize="squash"), embedding_dim=8)
    assert build_dual_encoder(section, captions=CAPTIONS).image.tower.preprocessing.resize_to == (32, 32)
    assert build_tower(TowerSection(name=folder("clip_vision")), "image").preprocessing.resize_to == 36
    with pytest.raises(ConfigError, match=r"model.text.resize is 'crop'; only image towers"):
        build_tower(TowerSection(resize="crop"), "text", captions=CAPTIONS)


def test_word_tokenizer_reads_what_it_never_saw():
    tokenizer = word_tokenizer(CAPTIONS)
    assert tokenizer.tokenize("A RED circle") == ["a", "red", "circle"]
    assert tokenizer.tokenize("cod") == ["c", "##o", "##d"], "spelled"
    ids = tokenizer("a dog")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids[-1] == tokenizer.sep_token_id
    assert tokenizer.unk_token_id in tokenizer("☃")["input_ids"]
    assert word_tokenizer(CAPTIONS).get_vocab() == tokenizer.get_vocab()
    assert word_tokenizer(CAPTIONS[:1]).get_vocab() != tokenizer.get_vocab()
    assert word_tokenizer([]).tokenize("ab") == ["a", "##b"]


def test_families_are_listed():
    assert set(ENCODERS) == {"tiny", "timm", "open_clip", "transformers"}
