"""Losses of two sets of rows on the pairs of all processes: the same value everywhere, gradients that add up."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.build import LOSSES
from mmcl.objectives.whole_batch import on_whole_batch

WHOLE = ("dcl", "nt_xent", "triplet", "barlow_twins", "vicreg")


def pairs(rows: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, rows, 8, generator=draw, dtype=torch.float64), dim=2)
    return image.requires_grad_(), text.requires_grad_(), torch.tensor([5.0]), torch.tensor([0, 1, 1, 2, 3, 4])


@pytest.mark.parametrize("name", WHOLE)
def test_parts_weighted_as_the_trainer_does_make_the_gradients_of_the_whole(name: str) -> None:
    image, text, scale, groups = pairs()
    scale.requires_grad_()
    LOSSES[name](image, text, scale, group_ids=groups).backward()
    whole = image.grad.clone(), text.grad.clone(), scale.grad.clone()
    value = LOSSES[name](image, text, scale, group_ids=groups)
    image.grad = text.grad = scale.grad = None
    for start, stop in ((0, 4), (4, 6)):  # two processes
        gathered = Embeddings(image, text, groups, scale)
        part = slice(start, stop)
        loss = LOSSES[name](
            image[part], text[part], scale, group_ids=groups[part], gathered=gathered, offset=start, logit_bias=None
        )
        torch.testing.assert_close(loss, value)
        (loss * (stop - start) / 6).backward()
    for got, wanted in zip((image.grad, text.grad, scale.grad), whole):
        torch.testing.assert_close(got, wanted)
    alone = LOSSES[name](image[:4], text[:4], scale, group_ids=groups[:4])
    assert not torch.isclose(alone, value)  # the control: others' rows matter


@pytest.mark.parametrize("name", WHOLE)
def test_everything_that_trains_gets_a_gradient_and_aligned_pairs_cost_less(name: str) -> None:
    image, text, scale, groups = pairs()
    scale.requires_grad_()
    bias = torch.tensor([-3.0], requires_grad=True)
    LOSSES[name](image, text, scale, logit_bias=bias, group_ids=groups).backward()
    assert scale.grad is not None
    assert torch.equal(bias.grad, torch.zeros(1))
    assert (float(scale.grad) != 0) == (name in ("dcl", "nt_xent"))
    aligned = LOSSES[name](image, image + 0.1 * text, scale, group_ids=None)
    assert aligned < LOSSES[name](image, (image + 0.1 * text).roll(1, 0), scale, group_ids=None)


def test_scale_groups_and_options_go_where_they_are_wanted() -> None:
    image, text, scale, groups = pairs()
    seen: dict[str, object] = {}

    def loss(x: Tensor, y: Tensor, **options: object) -> Tensor:
        seen.clear()
        seen.update(options, x=x)
        return x.sum()

    on_whole_batch(loss)(image, text, scale, group_ids=groups, margin=0.5)
    assert seen.keys() == {"x", "margin"}
    assert seen["x"] is image
    on_whole_batch(loss, takes_temperature=True, takes_groups=True, unit_variance=True)(image, text, scale)
    assert seen["temperature"] == pytest.approx(0.2)
    assert seen["group_ids"] is None
    torch.testing.assert_close(seen["x"].square().mean(), torch.ones((), dtype=torch.float64))
