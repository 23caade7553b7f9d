"""InfoNCE against naive loops in float64, hand-made cases, and what it must refuse."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import Embeddings
from mmcl.errors import ShapeError
from mmcl.losses import info_nce

ROWS, DIM = 7, 5
GROUPS = torch.tensor([3, 1, 3, 0, 1, 3, 9])


def unit_rows(rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, DIM, generator=draw, dtype=torch.float64), dim=1).to(dtype)


def naive(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    groups: Tensor | None = None,
    smoothing: float = 0.0,
    rows: range | None = None,
) -> Tensor:
    """The loss by loops: the rows given, against all rows, both ways."""
    total = len(image)
    rows = range(total) if rows is None else rows
    losses = []
    for queries, candidates in ((image, text), (text, image)):
        for i in rows:
            logits = [scale * torch.dot(queries[i], candidates[j]) + bias for j in range(total)]
            log_sum = torch.log(sum(torch.exp(z) for z in logits))
            positives = [j for j in range(total) if j == i or (groups is not None and groups[j] == groups[i])]
            loss = 0.0
            for j in range(total):
                target = (1 - smoothing) * (1 / len(positives) if j in positives else 0.0) + smoothing / total
                loss = loss - target * (logits[j] - log_sum)
            losses.append(loss)
    return sum(losses) / len(losses)


def leaves(*, scale: float = 8.0, bias: float = -1.5, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    values = [unit_rows(ROWS, 0), unit_rows(ROWS, 1), torch.tensor([scale]), torch.tensor([bias])]
    return [value.to(dtype).requires_grad_() for value in values]


@pytest.mark.parametrize("groups", [None, GROUPS, torch.arange(ROWS)], ids=["pairs", "groups", "own groups"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_value_and_gradients_equal_loops(groups: Tensor | None, smoothing: float) -> None:
    image, text, scale, bias = leaves()
    loss = info_nce(image, text, scale, logit_bias=bias, group_ids=groups, label_smoothing=smoothing)
    loss.backward()
    exact = leaves(dtype=torch.float64)
    expected = naive(*exact, groups=groups, smoothing=smoothing)
    expected.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert float(loss) == pytest.approx(float(expected), abs=1e-5)
    for name, got, want in zip(("image", "text", "logit_scale", "logit_bias"), (image, text, scale, bias), exact):
        torch.testing.assert_close(
            got.grad.double(), want.grad, atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert image.grad.abs().max() > 1e-3
    assert scale.grad.abs().item() > 1e-4


def test_groups_and_smoothing_change_the_value() -> None:
    image, text, scale, bias = leaves()
    plain = info_nce(image, text, scale)
    assert not torch.isclose(plain, info_nce(image, text, scale, group_ids=GROUPS))
    assert not torch.isclose(plain, info_nce(image, text, scale, label_smoothing=0.2))
    # Softmax does not see what is added to every logit.
    torch.testing.assert_close(plain, info_nce(image, text, scale, logit_bias=bias))


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["pairs", "groups"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_of_a_gathered_batch_add_up_to_the_whole(groups: Tensor | None, smoothing: float) -> None:
    image, text, scale, bias = leaves()
    gathered = Embeddings(image, text, torch.arange(ROWS) if groups is None else groups, scale)
    parts = [range(4), range(4, 7)]
    losses = []
    for rows in parts:
        mine = slice(rows.start, rows.stop)
        loss = info_nce(
            image[mine],
            text[mine],
            scale,
            logit_bias=bias,
            group_ids=None if groups is None else groups[mine],
            label_smoothing=smoothing,
            gathered=gathered,
            offset=rows.start,
        )
        expected = naive(*leaves(dtype=torch.float64), groups=groups, smoothing=smoothing, rows=rows)
        assert float(loss) == pytest.approx(float(expected), abs=1e-5)
        losses.append(loss * len(rows) / ROWS)
    sum(losses).backward()
    exact = leaves(dtype=torch.float64)
    naive(*exact, groups=groups, smoothing=smoothing).sum().backward()
    for got, want in zip((image, text, scale, bias), exact):
        torch.testing.assert_close(got.grad.double(), want.grad, atol=2e-6, rtol=1e-4)
    # Without the others' rows the loss is another.
    alone = info_nce(image[:4], text[:4], scale, group_ids=None if groups is None else groups[:4])
    assert abs(float(alone - losses[0] * ROWS / 4)) > 1e-2


def test_a_wrong_offset_is_another_loss() -> None:
    image, text, scale, _ = leaves()
    gathered = Embeddings(image, text, torch.arange(ROWS), scale)
    right = info_nce(image[2:5], text[2:5], scale, gathered=gathered, offset=2)
    wrong = info_nce(image[2:5], text[2:5], scale, gathered=gathered, offset=1)
    assert abs(float(right - wrong)) > 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_judged_in_float32(dtype: torch.dtype) -> None:
    image, text = unit_rows(ROWS, 0, dtype).requires_grad_(), unit_rows(ROWS, 1, dtype).requires_grad_()
    loss = info_nce(image, text, torch.tensor(50.0))
    loss.backward()
    wide = info_nce(image.detach().float(), text.detach().float(), torch.tensor(50.0))
    assert loss.dtype == torch.float32
    assert float(loss) == float(wide)
    assert image.grad.dtype == dtype
    in_half = F.cross_entropy(50.0 * (image @ text.T), torch.arange(ROWS))
    assert abs(float(in_half) - float(wide)) > 1e-4


def test_autocast_around_it_changes_nothing() -> None:
    image, text, scale, _ = leaves()
    outside = info_nce(image, text, scale)
    with torch.autocast("cpu", torch.bfloat16):
        inside = info_nce(image, text, scale)
        inside_groups = info_nce(image, text, scale, group_ids=GROUPS)
        in_half = (image @ text.T).dtype
    assert in_half == torch.bfloat16
    assert float(inside) == float(outside)
    assert float(inside_groups) == float(info_nce(image, text, scale, group_ids=GROUPS))


def test_a_scale_of_100_neither_overflows_nor_saturates() -> None:
    x = torch.eye(4).requires_grad_()
    assert float(info_nce(x, torch.eye(4), 100.0)) < 1e-6
    worst = info_nce(x, -torch.eye(4), 100.0)
    worst.backward()
    assert float(worst) == pytest.approx(100 + math.log(3), rel=1e-4)  # logits: -100 of the own pair, 0 of three others
    assert torch.isfinite(x.grad).all()
    assert math.isinf(torch.exp(torch.tensor(100.0)).item())


def test_equal_embeddings_are_at_chance() -> None:
    x = F.normalize(torch.ones(16, DIM), dim=1)
    assert float(info_nce(x, x, 20.0)) == pytest.approx(math.log(16), abs=1e-5)


def test_a_single_row_has_nothing_to_tell_apart() -> None:
    image, text = unit_rows(1, 0).requires_grad_(), unit_rows(1, 1)
    loss = info_nce(image, text, 10.0, group_ids=torch.tensor([4]))
    loss.backward()
    assert float(loss) == pytest.approx(0.0, abs=1e-7)
    assert float(image.grad.abs().max()) < 1e-6


def test_where_all_are_positives_the_target_is_uniform() -> None:
    image, text, scale, _ = leaves()
    loss = info_nce(image, text, scale, group_ids=torch.zeros(ROWS, dtype=torch.int64))
    logits = scale * (image @ text.T)
    uniform = -(F.log_softmax(logits, 1).mean() + F.log_softmax(logits.T, 1).mean()) / 2
    torch.testing.assert_close(loss, uniform)


def test_order_of_rows_and_names_of_groups_do_not_matter() -> None:
    image, text, scale, _ = leaves()
    order = torch.tensor([4, 0, 6, 2, 5, 1, 3])
    loss = info_nce(image, text, scale, group_ids=GROUPS, label_smoothing=0.1)
    shuffled = info_nce(image[order], text[order], scale, group_ids=GROUPS[order], label_smoothing=0.1)
    renamed = info_nce(image, text, scale, group_ids=GROUPS * 7 - 100, label_smoothing=0.1)
    swapped = info_nce(text, image, scale, group_ids=GROUPS, label_smoothing=0.1)
    for other in (shuffled, renamed, swapped):
        torch.testing.assert_close(loss, other)
    torn = info_nce(image, text[order], scale, group_ids=GROUPS, label_smoothing=0.1)
    assert not torch.isclose(loss, torn)


def test_aligned_pairs_are_better_and_a_step_brings_pairs_together() -> None:
    image, text = unit_rows(ROWS, 0), unit_rows(ROWS, 1)
    assert info_nce(image, image, 10.0) < info_nce(image, image.roll(1, 0), 10.0)
    raw = text.clone().requires_grad_()
    before = (image * text).sum(1).mean()
    info_nce(image, F.normalize(raw, dim=1), 10.0).backward()
    after = (image * F.normalize(raw - 0.1 * raw.grad, dim=1)).sum(1).mean()
    assert after > before
    away = (image * F.normalize(raw + 0.1 * raw.grad, dim=1)).sum(1).mean()
    assert away < before


def test_a_learnable_scale_rises_for_aligned_pairs_and_falls_for_torn_ones() -> None:
    scale = torch.tensor([5.0], requires_grad=True)
    image = unit_rows(ROWS, 0)
    info_nce(image, image, scale).backward()
    rising = scale.grad.item()
    scale.grad = None
    info_nce(image, image.roll(1, 0), scale).backward()
    assert rising < 0 < scale.grad.item()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image": torch.ones(3, DIM)}, "image and text"),
        ({"image": torch.ones(ROWS)}, "image and text"),
        ({"image": torch.ones(0, DIM), "text": torch.ones(0, DIM)}, "no rows"),
        ({"logit_scale": 0.0}, "logit_scale is 0.0"),
        ({"logit_scale": torch.tensor(-2.0)}, "logit_scale is -2.0"),
        ({"logit_scale": float("nan")}, "logit_scale is nan"),
        ({"logit_scale": torch.ones(2)}, "logit_scale is one number"),
        ({"logit_bias": torch.ones(2)}, "logit_bias is one number"),
        ({"group_ids": torch.zeros(3, dtype=torch.int64)}, "group_ids need shape"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"offset": 2}, "offset is 2"),
    ],
)
def test_wrong_arguments_are_named(change: dict, named: str) -> None:
    given = {"image": unit_rows(ROWS, 0), "text": unit_rows(ROWS, 1), "logit_scale": 1.0}
    assert torch.isfinite(info_nce(**given))
    with pytest.raises(ShapeError, match=named):
        info_nce(**{**given, **change})


@pytest.mark.parametrize(
    ("rows", "dim", "groups", "offset", "named"),
    [
        (10, DIM, 10, 4, "offset is 4"),
        (10, DIM, 10, -1, "offset is -1"),
        (10, DIM + 1, 10, 0, "gathered.image and gathered.text"),
        (10, DIM, 9, 0, "gathered.group_ids"),
    ],
)
def test_wrong_gathered_rows_are_named(rows: int, dim: int, groups: int, offset: int, named: str) -> None:
    gathered = Embeddings(torch.ones(rows, dim), torch.ones(rows, dim), torch.arange(groups), torch.tensor(1.0))
    own = torch.arange(ROWS)
    with pytest.raises(ShapeError, match=named):
        info_nce(unit_rows(ROWS, 0), unit_rows(ROWS, 1), 1.0, group_ids=own, gathered=gathered, offset=offset)


def test_nan_stays_visible() -> None:
    image = unit_rows(ROWS, 0)
    image[2, 1] = math.nan
    assert math.isnan(float(info_nce(image, unit_rows(ROWS, 1), 10.0)))
