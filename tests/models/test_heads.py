from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcl.config import HeadSection, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import Encoder, build_head, build_tower
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead, head_description


@pytest.fixture(scope="module")
def tower():
    return build_tower(TowerSection(options={"hidden_size": 24, "intermediate_size": 24}), "image").eval()


@pytest.mark.parametrize(
    "section",
    [
        HeadSection(),
        HeadSection(bias=True, input_dropout=0.3),
        HeadSection(name="mlp"),
        HeadSection(name="mlp", hidden_dims=(12, 10), norm="batch", activation="silu", dropout=0.2, input_dropout=0.1),
        HeadSection(name="mlp", hidden_dims=(), norm="layer", activation="relu"),
    ],
)
def test_described_and_built_again(tower, section):
    head = build_head(section, tower, 6).eval()
    features = torch.randn(5, 24)
    assert head(features).shape == (5, 6)
    again = build_head(HeadSection.model_validate(head_description(head)), tower, 6).eval()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(features), head(features))
    assert [type(m) for m in again.modules()] == [type(m) for m in head.modules()]
    assert [m.p for m in again.modules() if isinstance(m, nn.Dropout)] == [
        m.p for m in head.modules() if isinstance(m, nn.Dropout)
    ]


def test_mlp_layers_are_in_order(tower):
    head = MlpHead(24, 6, hidden_dims=(12,), input_dropout=0.1, dropout=0.2, norm="layer", activation="gelu")
    kinds = [nn.Dropout, nn.Linear, nn.LayerNorm, nn.GELU, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in head.layers] == kinds
    head.eval()
    first, norm, last = head.layers[1], head.layers[2], head.layers[5]
    features = torch.randn(3, 24)
    torch.testing.assert_close(head(features), last(nn.functional.gelu(norm(first(features)))))


def test_linear_head_starts_as_clips(tower):
    head = LinearHead(400, 300)
    assert head.projection.bias is None
    assert float(head.projection.weight.detach().std()) == pytest.approx(400**-0.5, rel=0.02)


def test_none_needs_the_towers_size(tower):
    features = torch.randn(2, 24)
    assert build_head(HeadSection(name="none"), tower, 24)(features) is features
    with pytest.raises(
        ConfigError, match=r"features have 24 values and model.embedding_dim is 6; set .*embedding_dim=24"
    ):
        build_head(HeadSection(name="none"), tower, 6)


def test_pretrained_projection_starts_a_linear_head(folder):
    tower = build_tower(TowerSection(name=folder("clip")), "image")
    assert torch.equal(build_head(HeadSection(), tower, 24).projection.weight, tower.projection)
    assert build_head(HeadSection(), tower, 8).projection.weight.shape == (8, 32), "another size starts at random"


def test_encoder_gives_unit_rows_and_takes_features(tower):
    encoder = Encoder(tower, LinearHead(24, 6))
    images = torch.randn(3, 3, 64, 64)
    embeddings = encoder(pixel_values=images)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encoder(features=encoder.features(pixel_values=images)), embeddings)
    assert Encoder(tower, IdentityHead())(pixel_values=images).shape == (3, 24)
    assert encoder(features=torch.randn(2, 24, dtype=torch.bfloat16).float()).dtype == torch.float32


def test_other_heads_cannot_be_saved():
    with pytest.raises(ConfigError, match="a head of type ReLU cannot be saved"):
        head_description(nn.ReLU())
