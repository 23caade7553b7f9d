from __future__ import annotations

import functools

import pytest
import torch
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.config import LossSection, Recipe
from mmcl.losses.info_nce import info_nce
from mmcl.losses.sigmoid import sigmoid
from mmcl.objectives.member_losses import on_members


def rows(count: int, members: int = 3, width: int = 4) -> torch.Tensor:
    """Unit rows made of unit rows."""
    parts = [F.normalize(torch.randn(count, width, dtype=torch.float64), dim=-1) for _ in range(members)]
    return torch.cat(parts, dim=1) / members**0.5


def test_each_member_is_judged_by_its_own_loss():
    image, text, scale, bias = rows(6).requires_grad_(), rows(6), torch.tensor(10.0), torch.tensor(-10.0)
    groups = torch.tensor([0, 1, 2, 0, 4, 5])
    smooth = functools.partial(info_nce, label_smoothing=0.1)
    loss = on_members([smooth, sigmoid, info_nce])(image, text, scale, logit_bias=bias, group_ids=groups)
    expected = 0
    for place, one in enumerate([smooth, sigmoid, info_nce]):
        columns = slice(4 * place, 4 * place + 4)
        x, y = F.normalize(image[:, columns], dim=-1), F.normalize(text[:, columns], dim=-1)
        expected = expected + one(x, y, scale, logit_bias=bias, group_ids=groups) / 3
    torch.testing.assert_close(loss, expected)
    whole = info_nce(image, text, scale, logit_bias=bias, group_ids=groups)
    assert not torch.allclose(loss, whole, atol=1e-2), "control: a loss of whole rows is another"


def test_a_member_may_have_a_scale_of_its_own():
    image, text, scale = rows(5, members=2), rows(5, members=2), torch.tensor([20.0], requires_grad=True)
    x, y = (F.normalize(part[:, 4:], dim=-1) for part in (image, text))
    loss = on_members([info_nce, info_nce], [None, 5.0])(image, text, scale, logit_bias=None)
    first = info_nce(F.normalize(image[:, :4], dim=-1), F.normalize(text[:, :4], dim=-1), scale)
    torch.testing.assert_close(loss, (first + info_nce(x, y, torch.tensor(5.0))) / 2)
    assert abs(float(info_nce(x, y, torch.tensor(20.0)) - info_nce(x, y, torch.tensor(5.0)))) > 0.01, "control"
    fixed = on_members([info_nce] * 2, [5.0, 5.0])(image, text, scale, logit_bias=None)
    assert float(torch.autograd.grad(fixed, scale)[0]) == 0, "it has a gradient, which data parallelism waits for"
    with pytest.raises(ValueError, match=r"loss.logit_scale=5 is for one of loss.members; .*model.logit_scale=5"):
        Recipe.model_validate({"data": {"path": "shapes"}, "loss": {"logit_scale": 5}})


def test_further_negatives_and_other_processes_are_split_too():
    image, text, scale = rows(4), rows(4), torch.tensor(10.0)
    further, groups = rows(3), torch.tensor([-1, 1, -1])
    ids = torch.arange(4)
    loss = on_members([info_nce] * 3)
    together = loss(
        image, text, scale, logit_bias=None, group_ids=ids, negative_text=further, negative_text_groups=groups
    )
    alone = loss(image, text, scale, logit_bias=None, group_ids=ids)
    assert float(together) > float(alone), "more negatives, more loss"
    everyone = Embeddings(image=image, text=text, group_ids=ids, logit_scale=scale)
    halves = [
        loss(image[part], text[part], scale, logit_bias=None, group_ids=ids[part], gathered=everyone, offset=part.start)
        for part in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves) / 2, alone)
    lone = loss(image[:2], text[:2], scale, logit_bias=None, group_ids=ids[:2])
    assert abs(float(lone) - float(halves[0])) > 1e-3, "control: without the others it is another loss"


def test_sections_of_members():
    section = LossSection(members=({"name": "info_nce", "label_smoothing": 0.1}, {"name": "sigmoid"}))
    assert section.names == ("info_nce", "sigmoid")
    assert [member.options for member in section.members] == [{"label_smoothing": 0.1}, {}]
    with pytest.raises(ValueError, match="loss.label_smoothing is given beside loss.members"):
        LossSection(label_smoothing=0.1, members=({"name": "sigmoid"},))
    with pytest.raises(ValueError, match=r"loss.members\[0\].positives: a member has none of its own"):
        LossSection(members=({"positives": "pair"},))
    with pytest.raises(ValueError, match="loss.margin is not known to loss.name=sigmoid"):
        LossSection(members=({"name": "sigmoid", "margin": 0.5},))
