"""The mean of the weights over the end of a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcl.config import TrainSection, recipe_from_tree
from mmcl.errors import ConfigError
from mmcl.models.averages import build_average
from mmcl.models.ema import ExponentialMovingAverage
from mmcl.models.uniform_average import UniformAverage


def walk(model: nn.Module, average: UniformAverage, steps: range) -> list[torch.Tensor]:
    seen = []
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        model[0].weight.data = torch.randn(model[0].weight.shape, generator=draw)
        model[1].running_mean.fill_(step)
        average.update(model)
        seen.append(model[0].weight.detach().clone())
    return seen


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_it_is_the_mean_from_a_step_on():
    model, average = make(), UniformAverage(first_step=4)
    seen = walk(model, average, range(1, 11))
    wanted = torch.stack(seen[3:]).double().mean(0)
    torch.testing.assert_close(average.average["0.weight"].double(), wanted, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(average.average["0.weight"], torch.stack(seen).mean(0))
    assert average.average["1.running_mean"].tolist() == pytest.approx([7.0] * 4)
    with average.swapped_in(model):
        assert torch.equal(model[0].weight, average.average["0.weight"])
    assert torch.equal(model[0].weight, seen[-1])


def test_before_that_the_model_stands_for_itself():
    model, average = make(), UniformAverage(first_step=4)
    seen = walk(model, average, range(1, 4))
    assert average.average == {}
    with average.swapped_in(model):
        assert torch.equal(model[0].weight, seen[-1])


@pytest.mark.parametrize("stop", [2, 6])
def test_state_goes_on_exactly(stop):
    model, average = make(), UniformAverage(first_step=4)
    walk(model, average, range(1, stop + 1))
    other = UniformAverage(first_step=4)
    other.load_state_dict({k: v.clone() for k, v in average.state_dict().items()})
    walk(model, average, range(stop + 1, 11))
    walk(model, other, range(stop + 1, 11))
    assert torch.equal(average.average["0.weight"], other.average["0.weight"])
    assert other.step == 10


def test_a_recipe_asks_for_one():
    model = make()

    def built(**values):
        return build_average(TrainSection.model_validate(values), model, total_steps=40)

    assert built() is None
    assert isinstance(built(ema={"enabled": True}), ExponentialMovingAverage)
    assert built(weight_average={"enabled": True}).first_step == 31
    assert built(weight_average={"enabled": True, "from_share": 0.0}).first_step == 1
    assert built(weight_average={"enabled": True, "from_share": 0.999}).first_step == 40
    both = {"ema": {"enabled": True}, "weight_average": {"enabled": True}}
    with pytest.raises(ConfigError, match=r"train\.ema\.enabled and train\.weight_average\.enabled exclude"):
        recipe_from_tree({"data": {"path": "x"}, "train": both}, source="test")
