"""Sharpness-aware minimization against loops, with dropout, batch norm, pieces and processes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small_runs import final_weights, in_children, rank_envs, small_run
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.training.sharpness import SharpnessAware


class Rows(nn.Module):
    """A small regression in float64 with dropout and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 1)
        ).double()

    def loss(self, rows: Tensor) -> Tensor:
        return F.softplus(self.net(rows)).mean()


class Direct:
    """Gradients of a whole batch, as `WholeBatch` leaves them."""

    size = None

    def __init__(self, module: Rows) -> None:
        self.module, self.calls = module, 0

    def prepare(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters

    def __call__(self, batch: Tensor, sizes: list[int]) -> dict[str, Tensor]:
        self.calls += 1
        loss = self.module.loss(batch)
        loss.backward()
        return {"loss": loss.detach()}


ROWS = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def by_hand(rho: float) -> tuple[float, dict[str, Tensor]]:
    """arXiv:2010.01412, equations 2 and 3, each pass from random state 7."""
    model = Rows().train()
    torch.manual_seed(7)
    loss = model.loss(ROWS)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = sum(float((g * g).sum()) for g in gradients) ** 0.5
    moved = {name: p.detach() + rho * g / norm for (name, p), g in zip(model.named_parameters(), gradients)}
    other = Rows().train()
    other.load_state_dict({**other.state_dict(), **moved})
    torch.manual_seed(7)
    found = torch.autograd.grad(other.loss(ROWS), list(other.parameters()))
    return float(loss.detach()), dict(zip(moved, found))


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_against_the_equations(rho: float) -> None:
    model = Rows().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    method = SharpnessAware(Direct(model), model, rho=rho)
    method.prepare(list(model.parameters()))
    torch.manual_seed(7)
    terms = method(ROWS, [16])
    loss, wanted = by_hand(rho)
    assert float(terms["loss"]) == loss
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-12, rtol=1e-10)
        assert torch.equal(parameter, before[name]), "the weights are back, bit for bit"
    plain = by_hand(1e-12)[1]
    assert max(float((plain[name] - wanted[name]).abs().max()) for name in wanted) > 1e-4


def test_running_statistics_move_once() -> None:
    model, once = Rows().train(), Rows().train()
    method = SharpnessAware(Direct(model), model, rho=0.5)
    method.prepare(list(model.parameters()))
    torch.manual_seed(7)
    method(ROWS, [16])
    torch.manual_seed(7)
    once.loss(ROWS)
    assert int(model.net[1].num_batches_tracked) == 1
    assert torch.equal(model.net[1].running_mean, once.net[1].running_mean)
    once.loss(ROWS)
    assert not torch.equal(model.net[1].running_mean, once.net[1].running_mean)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_gradient_that_leads_nowhere_is_left_as_it_is(value: float) -> None:
    model = Rows().train()
    inner = Direct(model)
    inner.module = SimpleNamespace(loss=lambda rows: value * sum(p.sum() for p in model.parameters()))
    method = SharpnessAware(inner, model, rho=0.5)
    method.prepare(list(model.parameters()))
    method(ROWS, [16])
    assert inner.calls == 1
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_weights_are_back_after_a_failure() -> None:
    model = Rows().train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inner = Direct(model)
    method = SharpnessAware(inner, model, rho=0.5)
    method.prepare(list(model.parameters()))
    whole = Rows.loss

    def fails(rows: Tensor) -> Tensor:
        if inner.calls == 2:
            raise RuntimeError("second pass")
        return whole(model, rows)

    inner.module = SimpleNamespace(loss=fails)
    with pytest.raises(RuntimeError, match="second pass"):
        method(ROWS, [16])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


# -- whole runs --------------------------------------------------------------------------------------------------

ONE_STEP = (
    "data.path=shapes?train=22&validation=24&test=24&image_size=32",
    "train.batch_size=8",
    "train.max_steps=1",
    "train.max_grad_norm=null",
    "optimizer={name: sgd, learning_rate: 1.0, weight_decay: 0.0, sam_rho: 0.5}",
    "schedule={name: constant, warmup_steps: 0}",
)


def largest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name].is_floating_point())


def test_pieces_and_processes_are_one_process_on_the_whole_batch(tmp_path) -> None:
    small_run(tmp_path / "one", *ONE_STEP)
    small_run(tmp_path / "plain", *ONE_STEP, "optimizer.sam_rho=null")
    small_run(tmp_path / "pieces", *ONE_STEP, "train.micro_batch_size=3")
    for code, output in in_children(lambda: small_run(tmp_path / "two", *ONE_STEP), envs=rank_envs(2)):
        assert code == 0, output
    one = final_weights(tmp_path / "one")
    assert largest(one, final_weights(tmp_path / "plain")) > 1e-3
    assert largest(one, final_weights(tmp_path / "pieces")) < 1e-5
    assert largest(one, final_weights(tmp_path / "two")) < 1e-5
