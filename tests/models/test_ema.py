from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcl.models.ema import ExponentialMovingAverage


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def _move(model, step):
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    model[1].running_mean.add_(1.0)


def test_against_loops(model):
    """In float64, weight by weight, with the warm-up of the decay."""
    decay = 0.6
    average = ExponentialMovingAverage(model, decay)
    expected = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    expected["1.running_mean"] = model[1].running_mean.double().clone()
    for step in range(1, 12):
        _move(model, step)
        average.update(model)
        factor = min(decay, (1 + step) / (10 + step))
        now = dict(model.named_parameters()) | {"1.running_mean": model[1].running_mean}
        expected = {k: factor * v + (1 - factor) * now[k].detach().double() for k, v in expected.items()}
    for name, value in expected.items():
        torch.testing.assert_close(average.average[name].double(), value, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(value.float(), now[name])


def test_swapped_in_and_out_even_after_an_error(model):
    average = ExponentialMovingAverage(model, 0.9)
    _move(model, 1)
    average.update(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def fail_inside() -> None:
        with average.swapped_in(model):
            assert torch.equal(model[0].weight, average.average["0.weight"])
            assert torch.equal(model[1].running_mean, average.average["1.running_mean"])
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not torch.equal(model[0].weight, average.average["0.weight"])


def test_frozen_weights_join_when_they_thaw(model):
    model[0].requires_grad_(False)
    average = ExponentialMovingAverage(model, 0.9)
    assert "0.weight" not in average.average
    with torch.no_grad(), average.swapped_in(model):
        assert torch.isfinite(model[0].weight).all()
    model[0].requires_grad_(True)
    average.update(model)
    assert torch.equal(average.average["0.weight"], model[0].weight)
    _move(model, 1)
    assert not torch.equal(average.average["0.weight"], model[0].weight), "a copy, not a view"


def test_state_goes_on_exactly(model):
    first = ExponentialMovingAverage(model, 0.9)
    _move(model, 1)
    first.update(model)
    second = ExponentialMovingAverage(model, 0.9)
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    _move(model, 2)
    first.update(model)
    second.update(model)
    assert first.step == second.step == 2
    for name in first.average:
        assert torch.equal(first.average[name], second.average[name])
