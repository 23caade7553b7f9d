"""The image-text objective: where encoders run, and what its loss sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmcl.batch import Batch
from mmcl.config import ModelSection
from mmcl.losses import info_nce
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder
from mmcl.objectives.image_text import ImageTextObjective

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
TEXTS = ["a red circle", "a small blue star", "a red circle", "two hearts"]


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    torch.manual_seed(0)
    section = ModelSection.model_validate(
        {"embedding_dim": 8, "image": {"options": TOWER, "image_size": 32}, "text": {"options": TOWER}}
    )
    return build_dual_encoder(section, captions=TEXTS).eval()


def batch(model: DualEncoder) -> Batch:
    draw = torch.Generator().manual_seed(1)
    return Batch(
        image={"pixel_values": torch.randn(4, 3, 32, 32, generator=draw)},
        text=model.text.tower.preprocessing(TEXTS),
        group_ids=torch.tensor([0, 0, 1, 2]),
        rows=torch.arange(4),
    )


def test_embed_runs_the_encoders_and_loss_does_not(model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = ImageTextObjective(model, info_nce)
    embeddings = objective(batch(model))
    assert embeddings.image.shape == embeddings.text.shape == (4, 8)
    torch.testing.assert_close(embeddings.image.norm(dim=1), torch.ones(4))
    monkeypatch.setattr(DualEncoder, "encode_image", lambda *_, **__: pytest.fail("the loss ran an encoder"))
    monkeypatch.setattr(DualEncoder, "encode_text", lambda *_, **__: pytest.fail("the loss ran an encoder"))
    terms = objective.loss(embeddings)
    assert terms.keys() == {"loss", "logit_scale"}
    assert float(terms["logit_scale"]) == pytest.approx(1 / 0.07, rel=1e-5)
    terms["loss"].backward()
    assert model.log_logit_scale.grad is not None
    assert not terms["logit_scale"].requires_grad


def test_groups_are_positives_only_when_asked(model: DualEncoder) -> None:
    embeddings = ImageTextObjective(model, info_nce)(batch(model))
    grouped = ImageTextObjective(model, info_nce).loss(embeddings)["loss"]
    paired = ImageTextObjective(model, info_nce, use_groups=False).loss(embeddings)["loss"]
    direct = info_nce(embeddings.image, embeddings.text, embeddings.logit_scale, group_ids=torch.tensor([0, 0, 1, 2]))
    torch.testing.assert_close(grouped, direct)
    assert not torch.isclose(grouped, paired)


def test_options_reach_the_loss(model: DualEncoder) -> None:
    seen = {}

    def loss(image: Tensor, text: Tensor, logit_scale: Tensor, **given: object) -> Tensor:
        seen.update(given)
        return image.sum()

    objective = ImageTextObjective(model, loss, label_smoothing=0.3)
    objective.loss(objective(batch(model)))
    assert seen["label_smoothing"] == 0.3
    assert seen["offset"] == 0
    assert seen["gathered"] is None
    assert seen["logit_bias"] is None


def test_the_scale_is_kept_at_its_ceiling(model: DualEncoder) -> None:
    objective = ImageTextObjective(model, info_nce)
    before = model.log_logit_scale.detach().clone()
    try:
        objective.after_step()
        assert torch.equal(model.log_logit_scale, before)
        with torch.no_grad():
            model.log_logit_scale.fill_(9.0)
        objective.after_step()
        assert float(model.log_logit_scale.detach()) == pytest.approx(math.log(100))
    finally:
        with torch.no_grad():
            model.log_logit_scale.copy_(before)
