from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmcl.config import HeadSection, Recipe, TowerSection
from mmcl.errors import ConfigError
from mmcl.models.encoder import build_head, build_tower
from mmcl.models.heads import MemberHeads, head_description, num_members


@pytest.fixture(scope="module")
def tower():
    return build_tower(TowerSection(options={"hidden_size": 24, "intermediate_size": 24}), "image").eval()


def test_the_cosine_of_members_is_the_mean_of_theirs(tower):
    image = build_head(HeadSection(members=3), tower, 12)
    text = build_head(HeadSection(members=3, name="mlp", hidden_dims=(8,)), tower, 12)
    a, b = torch.randn(5, 24), torch.randn(7, 24)
    scores = F.normalize(image(a), dim=-1) @ F.normalize(text(b), dim=-1).T
    each = torch.stack(
        [
            F.normalize(one(a), dim=-1) @ F.normalize(other(b), dim=-1).T
            for one, other in zip(image.members, text.members)
        ]
    )
    torch.testing.assert_close(scores, each.mean(0))
    assert not torch.allclose(scores, each[0], atol=1e-3), "control: one member alone is another model"
    torch.testing.assert_close(image(a).norm(dim=-1), torch.ones(5))


def test_members_start_apart(tower):
    head = build_head(HeadSection(members=2), tower, 8)
    assert num_members(head) == 2
    assert not torch.equal(head.members[0].projection.weight, head.members[1].projection.weight)


@pytest.mark.parametrize(
    "section",
    [
        HeadSection(members=2, input_dropout=0.3),
        HeadSection(input_norm="batch"),
        HeadSection(name="mlp", hidden_dims=(6,), members=3, input_norm="batch", norm="layer"),
    ],
)
def test_described_and_built_again(tower, section):
    head = build_head(section, tower, 6)
    head(torch.randn(9, 24) * 3 + 1)  # statistics that are not those of the start
    again = build_head(HeadSection.model_validate(head_description(head)), tower, 6)
    again.load_state_dict(head.state_dict())
    features = torch.randn(4, 24)
    assert torch.equal(again.eval()(features), head.eval()(features))


def test_statistics_are_those_of_all_batches_alike(tower):
    head = MemberHeads([torch.nn.Identity()], 24, input_norm="batch").train()
    batches = [torch.randn(16, 24) * scale + 1 for scale in (1.0, 2.0, 5.0)]
    for batch in batches:
        head(batch)
    means = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variances = torch.stack([batch.var(0) for batch in batches]).mean(0)
    features = torch.randn(3, 24)
    expected = F.normalize((features - means) / (variances + 1e-5).sqrt(), dim=-1)
    torch.testing.assert_close(head.eval()(features), expected)
    assert not torch.allclose(expected, F.normalize(features, dim=-1), atol=1e-2), "control: the norm does something"


def test_what_cannot_be_is_said(tower):
    with pytest.raises(ConfigError, match=r"embedding_dim is 10, which model.image.head.members=4 .*embedding_dim=8"):
        build_head(HeadSection(members=4), tower, 10)
    with pytest.raises(ValueError, match="there is no head to have"):
        HeadSection(name="none", members=2)
    with pytest.raises(ValueError, match=r"model.image.head.members is 2, model.text.head.members 1"):
        Recipe.model_validate({"data": {"path": "shapes"}, "model": {"image": {"head": {"members": 2}}}})
