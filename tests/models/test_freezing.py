from __future__ import annotations

import pytest
import tiny_open_clip
import torch

from mmcl.config import ModelSection, OptimizerSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import build_dual_encoder
from mmcl.models.encoder import Encoder, build_tower
from mmcl.models.freezing import apply_freezing, parameter_groups, unused_parameters
from mmcl.models.heads import IdentityHead
from mmcl.models.towers.tower import tower_parts

# transformers' towers: name -> blocks
TOWERS = {
    "text": {"bert": 2, "roberta": 2, "distilbert": 2, "modernbert": 2, "mpnet": 2, "gpt2": 2, "t5": 2},
    "image": {
        "vit": 3,
        "dinov2_registers": 3,
        "siglip_vision": 3,
        "clip_vision": 3,
        "convnext": 4,
        "swin": 3,
        "resnet": 4,
    },
}


def _model(folder, image="vit", text="bert", **towers):
    section = ModelSection(
        image=TowerSection(name=folder(image), **towers.get("image_values", {})),
        text=TowerSection(name=folder(text), **towers.get("text_values", {})),
        embedding_dim=8,
    )
    return build_dual_encoder(section), section


def _inputs(model):
    return model.image.tower.example(), model.text.tower.example()


def _step(model):
    model.zero_grad(set_to_none=True)
    image, text = _inputs(model)
    (model.encode_image(**image) - model.encode_text(**text)).square().sum().backward()


@pytest.mark.parametrize(
    ("modality", "name", "blocks"), [(m, name, n) for m, names in TOWERS.items() for name, n in names.items()]
)
def test_parts_hold_every_parameter_once(folder, modality, name, blocks):
    tower = build_tower(TowerSection(name=folder(name)), modality)
    parts = tower_parts(tower)
    assert len(parts.blocks) == blocks
    assert all(parts.blocks)
    found = [id(p) for group in (parts.stem, *parts.blocks, parts.neck) for p in group]
    assert sorted(found) == sorted(id(p) for p in tower.parameters())
    names = {id(p): n for n, p in tower.named_parameters()}
    assert any("embed" in names[id(p)] or "shared" in names[id(p)] or "wte" in names[id(p)] for p in parts.stem)
    assert not any("pooler" in names[id(p)] for p in parts.stem)


def test_freezing_n_blocks(folder):
    model, section = _model(folder, image_values={"freeze": 2})
    apply_freezing(model, section)
    parts = tower_parts(model.image.tower)
    assert not any(p.requires_grad for p in (*parts.stem, *parts.blocks[0], *parts.blocks[1]))
    assert all(p.requires_grad for p in (*parts.blocks[2], *parts.neck))
    assert all(p.requires_grad for p in model.text.parameters())
    assert not model.image.has_fixed_features
    _step(model)
    assert all(p.grad is None for p in parts.blocks[1])
    assert all(p.grad is not None for p in (*parts.blocks[2], *parts.neck))


def test_statistics_of_frozen_blocks_do_not_move(folder):
    model, section = _model(folder, image="resnet", image_values={"freeze": 2})
    model.train()
    apply_freezing(model, section)
    norms = {name: part for name, part in model.image.tower.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    before = {name: part.running_mean.clone() for name, part in norms.items()}
    with torch.no_grad():
        model.encode_image(pixel_values=torch.randn(4, *model.image.tower.example()["pixel_values"].shape[1:]))
    moved = {name for name, part in norms.items() if not torch.equal(part.running_mean, before[name])}
    assert moved == {name for name, part in norms.items() if part.weight.requires_grad} != set()
    assert moved != {*norms}, "some blocks are frozen"
    model.train()
    assert not any(part.training for name, part in norms.items() if name not in moved)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ({}, False),
        ({"keep_statistics": True}, True),
        ({"freeze": True, "freeze_until_epoch": 1.0}, True),  # heads have learnt on them
        ({"freeze": True, "freeze_until_epoch": 1.0, "keep_statistics": False}, False),
    ],
)
def test_statistics_that_heads_have_learnt_on_are_kept(folder, values, kept):
    model, section = _model(folder, image="resnet", image_values=values)
    model.train()
    apply_freezing(model, section)
    apply_freezing(model, section, epoch=1.0)
    pixels = torch.randn(6, *model.image.tower.example()["pixel_values"].shape[1:])
    trained = model.encode_image(pixel_values=pixels)
    assert trained.requires_grad
    assert all(p.requires_grad for p in tower_parts(model.image.tower).blocks[0])
    judged = model.eval().encode_image(pixel_values=pixels)
    assert torch.allclose(trained, judged, atol=1e-6) is kept


def test_a_model_that_is_trained_on_keeps_its_statistics(folder):
    model = _model(folder, image="resnet")[0]
    for start, kept in ((None, False), ("a/model", True)):
        apply_freezing(model, ModelSection(init_from=start))
        assert model.image.keeps_statistics is kept


def test_freezing_whole_and_stem_alone(folder):
    model, section = _model(folder, image_values={"freeze": True}, text_values={"freeze": 0})
    assert apply_freezing(model, section)
    assert not apply_freezing(model, section), "nothing changes twice"
    assert model.image.has_fixed_features
    assert not model.text.has_fixed_features
    parts = tower_parts(model.text.tower)
    assert not any(p.requires_grad for p in parts.stem)
    assert all(p.requires_grad for block in parts.blocks for p in block)
    model.train()
    assert not model.image.tower.training, "dropout and batch statistics of a frozen tower do not move"
    assert model.image.head.training
    assert model.text.tower.training
    with pytest.raises(ConfigError, match=r"model.image.freeze is 4; .* has 3 blocks"):
        apply_freezing(*_model(folder, image_values={"freeze": 4}))
    with pytest.raises(ConfigError, match=r"model.text.freeze is -1"):
        apply_freezing(*_model(folder, text_values={"freeze": -1}))


def test_attention_pooling_has_weights_of_its_own(folder):
    model, section = _model(folder, image_values={"freeze": True, "pooling": "attention"})
    apply_freezing(model, section)
    assert not model.image.has_fixed_features
    _step(model)
    assert all(p.grad is not None for p in model.image.learned_pooling.parameters())
    assert all(p.grad is None for p in model.image.tower.parameters())


def test_thawing_at_an_epoch(folder):
    model, section = _model(folder, image_values={"freeze": True, "freeze_until_epoch": 1.5})
    model.train()
    apply_freezing(model, section)
    groups = parameter_groups(model, section, OptimizerSection())
    grouped = {id(p) for group in groups for p in group.parameters}
    assert {id(p) for p in model.image.tower.parameters()} <= grouped, "they train later"
    assert not apply_freezing(model, section, epoch=1.4)
    assert model.image.has_fixed_features
    assert apply_freezing(model, section, epoch=1.5)
    assert not model.image.has_fixed_features
    assert model.image.tower.training
    _step(model)
    assert all(p.grad is not None for p in model.image.tower.parameters())


@pytest.mark.parametrize(
    ("modality", "name", "pooling", "unused"),
    [
        ("text", "bert", "mean", {"pooler.dense.weight", "pooler.dense.bias"}),
        ("text", "bert", "pooler", set()),
        ("image", "clip_vision", "mean", {"post_layernorm.weight", "post_layernorm.bias"}),
        ("image", "convnext", "mean", {"layernorm.weight", "layernorm.bias"}),
        ("image", "dinov2", "pooler", {"embeddings.mask_token"}),
        ("image", "siglip_vision", "max", 11),
        ("image", "siglip_vision", "pooler", set()),
        ("text", "distilbert", "mean", set()),
    ],
)
def test_unused_weights_never_wait_for_a_gradient(folder, modality, name, pooling, unused):
    """Against one real backward pass with everything trained."""
    tower = build_tower(TowerSection(name=folder(name)), modality)
    encoder = Encoder(tower, IdentityHead(), pooling=pooling)
    found = {n for n, p in tower.model.named_parameters() if id(p) in unused_parameters(encoder)}
    assert found == unused if isinstance(unused, set) else len(found) == unused
    encoder(**tower.example()).sum().backward()
    assert {n for n, p in tower.model.named_parameters() if p.grad is None} == found


def test_looking_for_unused_weights_changes_nothing(folder):
    model, _ = _model(folder, "vit_mae", image_values={"pooling": "mean"})
    model.train()
    first = next(model.image.tower.parameters()).requires_grad_(False)
    state = torch.get_rng_state()
    unused_parameters(model.image)
    assert torch.equal(state, torch.get_rng_state())
    assert not first.requires_grad
    assert model.image.tower.training
    assert all(p.grad is None for p in model.parameters())


def test_unused_weights_of_timm_and_open_clip(tmp_path):
    tiny_open_clip.register(tmp_path)
    vit = build_tower(TowerSection(name="timm:test_vit", pretrained=False, image_size=32), "image")
    assert unused_parameters(Encoder(vit, IdentityHead())) == set()
    text = build_tower(TowerSection(name="open_clip:tiny-clip", pretrained=False), "text")
    assert unused_parameters(Encoder(text, IdentityHead())) == set()


def test_groups_hold_what_trains_once(folder):
    values = {"learning_rate": 1e-4, "layer_decay": 0.5, "freeze": 1, "pooling": "mean"}
    model, section = _model(folder, image_values=values)
    apply_freezing(model, section)
    groups = parameter_groups(model, section, OptimizerSection(learning_rate=1e-3, weight_decay=0.2))
    grouped = [id(p) for group in groups for p in group.parameters]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters() if p.requires_grad}
    rates = {id(p): group.learning_rate for group in groups for p in group.parameters}
    parts = tower_parts(model.image.tower)
    assert {rates[id(p)] for p in parts.neck if id(p) in rates} == {1e-4}
    assert {rates[id(p)] for p in parts.blocks[2]} == {0.5e-4}
    assert {rates[id(p)] for p in parts.blocks[1]} == {0.25e-4}
    assert {rates[id(p)] for p in model.image.head.parameters()} == {1e-3}
    decays = {id(p): group.weight_decay for group in groups for p in group.parameters}
    for name, parameter in model.named_parameters():
        if id(parameter) in decays:
            matrix = parameter.ndim >= 2 and "embeddings" not in name
            assert decays[id(parameter)] == (0.2 if matrix else 0.0), name


def test_a_fixed_scale_is_in_no_group(folder):
    section = ModelSection(logit_scale_learnable=False, embedding_dim=8)
    model = build_dual_encoder(section, captions=["a"])
    groups = parameter_groups(model, section, OptimizerSection())
    assert id(model.log_logit_scale) not in {id(p) for group in groups for p in group.parameters}
    assert all(group.parameters for group in groups)


def test_bitfit_trains_biases_alone(folder):
    """What trains, by name: arXiv:2106.10199, table 1's "all bias terms", those of norms among them."""
    model, section = _model(
        folder, "resnet", "bert", image_values={"freeze": "biases"}, text_values={"freeze": "biases"}
    )
    apply_freezing(model, section)
    for encoder in (model.image, model.text):
        trained = {name for name, p in encoder.tower.named_parameters() if p.requires_grad}
        biases = {name for name, _ in encoder.tower.named_parameters() if name.endswith(".bias")}
        unused = {name for name, p in encoder.tower.named_parameters() if id(p) in unused_parameters(encoder)}
        assert trained == biases - unused
        assert trained
        assert not encoder.has_fixed_features
    model.train()
    norms = [part for part in model.image.tower.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms), "their inputs' weights stay, and so do their statistics"
    assert model.text.tower.training
    model.image.keeps_statistics = False
    assert all(norm.training for norm in norms if norm in model.train().image.tower.modules())
    groups = parameter_groups(model, section, OptimizerSection())
    assert {id(p) for g in groups for p in g.parameters} == {id(p) for p in model.parameters() if p.requires_grad}


def test_bitfit_needs_biases(folder):
    model, section = _model(folder, text="t5", text_values={"freeze": "biases"})
    with pytest.raises(ConfigError, match=r"model\.text\.freeze is biases, but .* has none"):
        apply_freezing(model, section)


def test_bitfit_first_and_everything_later(folder):
    model, section = _model(folder, text_values={"freeze": "biases", "freeze_until_epoch": 2.0})
    apply_freezing(model, section)
    groups = parameter_groups(model, section, OptimizerSection())
    early = {id(p) for g in groups for p in g.parameters if g.thaws_at is None}
    late = {id(p) for g in groups for p in g.parameters if g.thaws_at == 2.0}
    assert early == {id(p) for p in model.parameters() if p.requires_grad}
    assert apply_freezing(model, section, epoch=2.0)
    assert early | late == {id(p) for p in model.parameters() if p.requires_grad}
    assert not early & late
