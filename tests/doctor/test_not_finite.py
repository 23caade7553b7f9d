"""The source of a value that is not finite, planted at every place it can come from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmcl.batch import Batch, Embeddings
from mmcl.doctor.live.not_finite import find_source
from mmcl.doctor.live.stopped import finding_of_stop


class Scaled(torch.autograd.Function):
    """Its rows as they are; on the way back a factor."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient * ctx.factor, None


class Fragile(nn.Module):
    """Passes its input on, but for the last row and the gradient, which have factors."""

    def __init__(self) -> None:
        super().__init__()
        self.forward_value, self.backward_value = 1.0, 1.0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        factor = torch.ones(len(rows), 1)
        factor[-1] = self.forward_value
        return Scaled.apply(rows * factor, self.backward_value)


class Objective(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.ModuleDict({"tower": nn.Linear(6, 4), "middle": Fragile(), "head": nn.Linear(4, 3)})
        self.text = nn.Linear(5, 3)
        self.register_buffer("mask", torch.full((2,), -math.inf))
        self.factor, self.refuses = 1.0, False

    def forward(self, batch: Batch) -> Embeddings:
        image = self.image["head"](self.image["middle"](self.image["tower"](batch.image["features"])))
        text = self.text(batch.text["features"])
        scale = torch.ones(1, requires_grad=True)
        return Embeddings(F.normalize(image, dim=-1), F.normalize(text, dim=-1), batch.group_ids, scale)

    def loss(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
        if self.refuses:
            raise ValueError("logit_scale needs to be positive")
        logits = embeddings.image @ embeddings.text.T
        return {"loss": F.cross_entropy(logits, torch.arange(len(logits))) * self.factor}


def batch(rows: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image, text = (torch.randn(rows, width, generator=generator) for width in (6, 5))
    return Batch({"features": image}, {"features": text}, torch.arange(rows), torch.arange(rows))


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_first_module_is_named(size: int | None, value: float) -> None:
    objective = Objective()
    objective.image["middle"].forward_value = value
    source = find_source(objective, batch(), size=size)
    assert (source.kind, source.name, source.inputs_finite) == ("output", "image.middle", True)
    assert "module image.middle is the first" in source.sentence
    assert "inputs are finite" in source.sentence


@pytest.mark.parametrize("size", [None, 4])
def test_a_gradient_is_followed_back(size: int | None) -> None:
    objective = Objective()
    objective.image["middle"].backward_value = math.nan
    source = find_source(objective, batch(), size=size)
    assert source.kind == "gradient"
    assert source.name == "the output of the module image.tower"  # what follows it broke the gradient


def test_inputs_and_weights_come_before_what_is_made_of_them() -> None:
    objective, broken = Objective(), batch()
    broken.text["features"][2, 1] = math.nan
    source = find_source(objective, broken)
    assert (source.kind, source.name, source.inputs_finite) == ("input", "text features", False)
    with torch.no_grad():
        objective.text.bias[1] = math.inf
    source = find_source(objective, batch())
    assert (source.kind, source.name, source.inputs_finite) == ("weight", "text.bias", True)


def test_a_loss_and_what_it_hands_back() -> None:
    objective = Objective()
    objective.factor = math.nan
    assert find_source(objective, batch()).kind == "loss"

    class Root(Objective):
        def loss(self, embeddings: Embeddings) -> dict[str, torch.Tensor]:
            # 0 / 0 on the way back
            return {"loss": (embeddings.image - embeddings.image.detach()).square().sum().sqrt()}

    source = find_source(Root(), batch())
    assert (source.kind, source.name) == ("gradient", "the loss with respect to image")


def test_what_is_finite_now_or_cannot_be_run_is_unknown() -> None:
    objective = Objective()
    assert find_source(objective, batch()).kind == "unknown"
    objective.refuses = True
    assert find_source(objective, batch()).kind == "unknown"
    assert not objective._forward_hooks
    assert not any(module._forward_hooks for module in objective.modules())


def stop(objective: Objective, given: Batch, **known: Any) -> str:
    values = {"loss": math.nan, "largest_update": 0.01, "learning_rate": 1e-3, **known}
    return finding_of_stop("the loss is nan.", source=find_source(objective, given), **values).cause


def test_the_finding_of_a_stop() -> None:
    objective = Objective()
    objective.image["middle"].forward_value = math.nan
    assert stop(objective, batch()) == "not_a_number"
    assert stop(objective, batch(), largest_update=3.0) == "learning_rate_too_high"
    broken = batch()
    broken.image["features"][0] = math.nan
    assert stop(objective, broken, largest_update=3.0) == "not_a_number"
    diverged = finding_of_stop("it rose.", loss=9.0, source=None, largest_update=0.0, learning_rate=1e-3)
    assert (diverged.cause, diverged.next_step) == ("learning_rate_too_high", "Set optimizer.learning_rate=3e-05.")
