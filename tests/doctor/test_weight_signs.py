"""Signs of gradients and weights of single steps, against the whole tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcl.doctor.live.vital_signs import is_due
from mmcl.doctor.live.weight_signs import WeightSample, gradient_norms, part_of, parts_of, trained_parts


class Small(nn.Module):
    """Named as a dual encoder's parts are."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.ModuleDict({"tower": nn.Linear(6, 4), "head": nn.Linear(4, 3)})
        self.text = nn.ModuleDict({"tower": nn.Linear(5, 4), "head": nn.Linear(4, 3)})
        self.log_logit_scale = nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("image.tower.model.blocks.0.weight", "image_tower"),
        ("image.learned_pooling.query", "image_tower"),
        ("image.head.layers.1.weight", "image_head"),
        ("members.2.text.head.projection.weight", "text_head"),
        ("heads.0.text.head.weight", "text_head"),
        ("log_logit_scale", "logits"),
        ("queue", "other"),
    ],
)
def test_a_parameter_belongs_to_a_part(name: str, part: str) -> None:
    assert part_of(name) == part


def test_gradient_norms_are_those_before_clipping() -> None:
    model = Small()
    model.text["tower"].requires_grad_(False)
    loss = model.image["head"](model.image["tower"](torch.ones(2, 6))).square().sum()
    loss = loss + model.text["head"](torch.ones(2, 4)).sum() + 3 * model.log_logit_scale.sum()
    loss.backward()
    wanted = {
        part: sum(p.grad.square().sum().item() for p in module.parameters()) ** 0.5
        for part, module in (("image_tower", model.image["tower"]), ("text_head", model.text["head"]))
    }
    whole = float(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    norms = gradient_norms(trained_parts(parts_of(model)), whole=whole)
    assert set(norms) == {f"grad_norm/{part}" for part in ("image_tower", "image_head", "text_head", "logits")}
    for part, norm in wanted.items():
        assert norms[f"grad_norm/{part}"] == pytest.approx(norm, rel=1e-4)
    assert norms["grad_norm/logits"] == pytest.approx(3.0, rel=1e-4)
    assert model.image["tower"].weight.grad.norm() < 0.11  # they had been clipped


def test_parts_without_gradient_have_norm_zero() -> None:
    norms = gradient_norms(trained_parts(parts_of(Small())), whole=0.0)
    assert set(norms.values()) == {0.0}


def test_changes_of_small_parameters_are_exact() -> None:
    model = Small()
    sample = WeightSample(parts_of(model))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    sample.before_update()
    with torch.no_grad():
        model.image["head"].weight.mul_(1.5)
        model.log_logit_scale.add_(100.0)  # no encoder's
    signs = sample.after_update()
    moved = (model.image["head"].weight - start["image.head.weight"]).norm()
    whole = torch.cat([start["image.head.weight"].flatten(), start["image.head.bias"]]).norm()
    assert signs["update_ratio"] == pytest.approx(float((moved / whole).detach()), rel=1e-5)
    assert signs["weights_moved"] == signs["update_ratio"]
    sample.before_update()
    again = sample.after_update()
    assert again["update_ratio"] == 0.0
    assert again["weights_moved"] == signs["weights_moved"]


def test_weights_are_followed_wherever_they_are_moved_and_thawed() -> None:
    model = Small()
    model.image["tower"].weight = nn.Parameter(torch.randn(6, 4).T)  # not contiguous
    model.text.requires_grad_(False)
    sample = WeightSample(parts_of(model))
    norm = model.image["tower"].weight.detach().square().sum() + model.image["tower"].bias.detach().square().sum()
    start = float(norm.sqrt())
    sample.before_update()
    with torch.no_grad():
        model.image["tower"].weight.add_(1.0)
        model.image["tower"].weight.data = model.image["tower"].weight.data.clone()  # elsewhere in memory
        model.text["head"].weight.add_(100.0)  # frozen
    assert sample.after_update()["update_ratio"] == pytest.approx(24**0.5 / start, rel=1e-5)
    model.text.requires_grad_(True)
    sample.before_update()
    with torch.no_grad():
        model.text["head"].weight.add_(100.0)
    signs = sample.after_update()
    assert signs["weights_moved"] > 100  # of the thawed part, since the start of the run
    assert 0.9 < signs["update_ratio"] < 1.1


def test_nothing_is_said_of_a_model_without_trained_encoders() -> None:
    model = Small()
    model.image.requires_grad_(False)
    model.text.requires_grad_(False)
    sample = WeightSample(parts_of(model))
    sample.before_update()
    assert sample.after_update() == {}


def test_steps_whose_signs_are_taken() -> None:
    def due(log_every: int, total: int) -> list[int]:
        return [step for step in range(1, total + 1) if is_due(step, log_every=log_every, total_steps=total)]

    assert due(1, 25) == [1, 10, 20, 25]
    assert due(7, 50) == [1, 14, 21, 42, 50]
    assert due(50, 120) == [1, 50, 100, 120]
    assert due(10, 210) == [1, 10, 20, 40, 60, 80, 100, 150, 200, 210]
