"""The term that keeps the cosines of a tower's features: what it is computed from, and what it adds to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mmcl.batch import Batch, Embeddings
from mmcl.config import LossSection, ModelSection
from mmcl.losses import info_nce
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.noise.feature_mixup import FeatureMixup
from mmcl.objectives.image_text import ImageTextObjective
from mmcl.objectives.kept_structure import KeptStructure

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = ["a red circle", "a small blue star", "a green square", "two hearts"]


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    torch.manual_seed(0)
    section = ModelSection.model_validate(
        {"embedding_dim": 8, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}}
    )
    return build_dual_encoder(section, captions=TEXTS).eval()


@pytest.fixture
def batch(model: DualEncoder) -> Batch:
    draw = torch.Generator().manual_seed(1)
    image, text = ({"features": torch.randn(4, 16, generator=draw)} for _ in range(2))
    return Batch(image, text, group_ids=torch.arange(4), rows=torch.arange(4))


def gaps(rows: torch.Tensor, features: torch.Tensor) -> float:
    """The mean of squared differences between both sides' cosines, pair by pair."""
    cosine = torch.nn.CosineSimilarity(dim=0)
    pairs = [(i, j) for i in range(len(rows)) for j in range(len(rows))]
    return sum(float(cosine(rows[i], rows[j]) - cosine(features[i], features[j])) ** 2 for i, j in pairs) / len(pairs)


@pytest.mark.parametrize("weights", [{"text": 20.0}, {"image": 3.0}, {"text": 20.0, "image": 3.0}])
def test_it_stands_beside_the_loss_between_pairs(model: DualEncoder, batch: Batch, weights: dict[str, float]) -> None:
    plain = ImageTextObjective(model, info_nce)
    terms = plain.loss(plain(batch))
    kept = ImageTextObjective(model, info_nce, structure=KeptStructure(weights))
    embeddings = kept(batch)
    found = kept.loss(embeddings)
    wanted = 0.0
    for modality, weight in weights.items():
        wanted += weight * gaps(getattr(embeddings, modality).detach(), getattr(batch, modality)["features"])
    assert float(found["structure"]) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 1e-3, "control: there is something to keep"
    torch.testing.assert_close(found["loss"] - found["structure"], terms["loss"])
    assert "structure" not in terms
    assert kept.chance_loss(4) == plain.chance_loss(4)


def test_what_the_tower_makes_of_inputs_is_the_teacher(model: DualEncoder, batch: Batch) -> None:
    objective = ImageTextObjective(model, info_nce, structure=KeptStructure({"image": 1.0}))
    batch.image = {"pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))}
    inside = objective(batch)
    batch.image = {"features": model.image.features(**batch.image).detach()}
    given = objective(batch)
    torch.testing.assert_close(given.image_features, inside.image_features)
    torch.testing.assert_close(given.image, inside.image)
    assert inside.text_features is None
    assert not inside.image_features.requires_grad


def test_it_pulls_towards_the_towers_cosines_and_leaves_the_tower_alone(model: DualEncoder, batch: Batch) -> None:
    objective = ImageTextObjective(model, info_nce, structure=KeptStructure({"text": 1.0}))
    embeddings = objective(batch)
    text = embeddings.text.detach().requires_grad_()
    embeddings.text = text
    before = objective.structure(embeddings, embeddings)
    before.backward()
    embeddings.text = F.normalize(text.detach() - text.grad, dim=1)
    assert float(objective.structure(embeddings, embeddings)) < float(before.detach())


def test_a_mixture_relates_as_its_larger_part(model: DualEncoder, batch: Batch) -> None:
    structure, mixup = KeptStructure({"text": 1.0}), FeatureMixup(1.0, seed=0)
    mixing = ImageTextObjective(model, info_nce, structure=structure, mixup=mixup)
    mixed = mixing(batch)
    torch.testing.assert_close(mixed.text_features, batch.text["features"])
    shares = mixed.mixed_shares.unsqueeze(1)
    partners = mixed.mixed_rows[:, 1]
    wanted = shares * batch.text["features"] + (1 - shares) * batch.text["features"][partners]
    torch.testing.assert_close(mixed.text, model.encode_text(features=wanted))
    assert not torch.allclose(mixed.text, model.encode_text(**batch.text), atol=1e-3), "control: something is mixed"


def test_each_member_keeps_it_by_itself() -> None:
    draw = torch.Generator().manual_seed(0)
    members = [F.normalize(torch.randn(5, 4, generator=draw), dim=1) for _ in range(3)]
    rows, features = torch.cat(members, 1) / 3**0.5, torch.randn(5, 6, generator=draw)
    made = Embeddings(rows, rows, torch.arange(5), torch.tensor(1.0), text_features=features)
    found = float(KeptStructure({"text": 2.0}, members=3)(made, made))
    assert found == pytest.approx(2 * sum(gaps(member, features) for member in members) / 3, rel=1e-5)
    assert abs(found - float(KeptStructure({"text": 2.0})(made, made))) > 0.05, (
        "control: of the whole rows it is another"
    )


def test_members_have_none_of_their_own() -> None:
    loss = {"members": [{"name": "info_nce", "text_structure": 1.0}, {"name": "sigmoid"}]}
    with pytest.raises(ValueError, match=r"loss.members\[0\].text_structure: a member has none of its own"):
        LossSection.model_validate(loss)
    together = {"text_structure": 1.0, "members": [{"name": "info_nce"}, {"name": "sigmoid"}]}
    assert LossSection.model_validate(together).text_structure == 1.0
