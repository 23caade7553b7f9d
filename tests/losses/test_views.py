"""NT-Xent, decoupled and supervised contrastive losses against loops, and against one another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from naive_pairs import DIM, unit_rows
from torch import Tensor

from mmcl.errors import ShapeError
from mmcl.losses import dcl, info_nce, nt_xent, sup_con

ROWS = 6
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 5, 2, 0, 7, 1, 2])  # of 2 * ROWS rows; 5 and 7 stand alone


def naive_rows(
    views: Tensor, temperature: Tensor, positives: Callable[[int], list[int]], *, decoupled: bool = False
) -> list[Tensor]:
    """Losses of the rows that have a positive, by loops."""
    losses = []
    for i in range(len(views)):
        mine = positives(i)
        if not mine:
            continue
        logits = {k: torch.dot(views[i], views[k]) / temperature for k in range(len(views)) if k != i}
        counted = [z for k, z in logits.items() if not (decoupled and k in mine)]
        log_sum = torch.log(sum(torch.exp(z) for z in counted))
        losses.append(sum(log_sum - logits[p] for p in mine) / len(mine))
    return losses


def naive_nt_xent(first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
    count = len(first)
    rows = naive_rows(torch.cat([first, second]), temperature, lambda i: [(i + count) % (2 * count)])
    return sum(rows) / len(rows)


def naive_dcl(first: Tensor, second: Tensor, temperature: Tensor, sigma: float | None = None) -> Tensor:
    count, views = len(first), torch.cat([first, second])
    rows = naive_rows(views, temperature, lambda i: [(i + count) % (2 * count)], decoupled=True)
    if sigma is not None:
        raw = [math.exp(float(torch.dot(first[i].detach(), second[i].detach())) / sigma) for i in range(count)]
        for i in range(2 * count):
            weight = 2 - raw[i % count] / (sum(raw) / count)
            rows[i] = rows[i] + (1 - weight) * torch.dot(views[i], views[(i + count) % (2 * count)]) / temperature
    return sum(rows) / len(rows)


def naive_sup_con(first: Tensor, second: Tensor, temperature: Tensor) -> Tensor:
    def positives(i: int) -> list[int]:
        return [k for k in range(len(LABELS)) if k != i and LABELS[k] == LABELS[i]]

    rows = naive_rows(torch.cat([first, second]), temperature, positives)
    return sum(rows) / len(rows)


def of_views(first: Tensor, second: Tensor, *, temperature: Tensor, tile_size: int | None = None) -> Tensor:
    return sup_con(torch.cat([first, second]), LABELS[: 2 * len(first)], temperature=temperature, tile_size=tile_size)


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "nt_xent": (nt_xent, naive_nt_xent),
    "dcl": (dcl, naive_dcl),
    "dclw": (lambda x, y, **options: dcl(x, y, sigma=0.5, **options), lambda x, y, t: naive_dcl(x, y, t, 0.5)),
    "sup_con": (of_views, naive_sup_con),
}


def evaluate(loss: Callable[..., Tensor], dtype: torch.dtype, temperature: float, **options: Any) -> list[Tensor]:
    """Value and gradients; inputs are rounded to bf16 first, so that all dtypes hold the same."""
    values = [unit_rows(ROWS, 0), unit_rows(ROWS, 1) + 0.5 * unit_rows(ROWS, 0), torch.tensor([temperature])]
    values = [value.bfloat16().to(dtype).requires_grad_() for value in values]
    naive = options.pop("naive", False)
    result = loss(*values) if naive else loss(*values[:2], temperature=values[2], **options)
    result.sum().backward()
    return [result.detach().reshape(()), *[value.grad for value in values]]


@pytest.mark.parametrize("tile_size", [None, 1, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_loops(name: str, tile_size: int | None) -> None:
    loss, naive = LOSSES[name]
    got = evaluate(loss, torch.float64, 0.125, tile_size=tile_size)
    want = evaluate(naive, torch.float64, 0.125, naive=True)
    other = evaluate(naive, torch.float64, 0.25, naive=True)
    for mine, expected in zip(got, want):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)
    assert abs(float(got[0] - other[0])) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_narrower_inputs_are_as_good_as_their_rounding(name: str, dtype: torch.dtype) -> None:
    loss, naive = LOSSES[name]
    got = evaluate(loss, dtype, 0.125, tile_size=5)
    want = evaluate(naive, torch.float64, 0.125, naive=True)
    assert got[0].dtype == torch.float32
    assert float(got[0]) == pytest.approx(float(want[0]), rel=2e-6)
    tight = dtype == torch.float32
    for mine, expected in zip(got[1:], want[1:]):
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4 if tight else 1e-2, atol=1e-5 if tight else 4e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_aligned_views_are_better_and_a_step_brings_them_together(name: str) -> None:
    loss, _ = LOSSES[name]
    first, raw = unit_rows(ROWS, 0), unit_rows(ROWS, 1).requires_grad_()
    if name == "sup_con":  # its positives are by label: row 0 with rows 2, 5 and 8
        pairs = torch.tensor([[0, 2], [0, 5], [1, 4]])
    else:
        pairs = torch.stack([torch.arange(ROWS), torch.arange(ROWS) + ROWS], 1)

    def closeness(second: Tensor) -> float:
        views = torch.nn.functional.normalize(torch.cat([first, second.detach()]), dim=1)
        return float((views[pairs[:, 0]] * views[pairs[:, 1]]).sum(1).mean())

    loss(first, raw, temperature=torch.tensor(0.2)).backward()
    if name != "sup_con":
        assert loss(first, first, temperature=0.2) < loss(first, first.roll(1, 0), temperature=0.2)
        assert closeness(raw - 0.1 * raw.grad) > closeness(raw) > closeness(raw + 0.1 * raw.grad)
        return
    same, torn = unit_rows(2, 0).repeat_interleave(2, 0), torch.tensor([0, 1, 0, 1])
    assert sup_con(same, torch.tensor([0, 0, 1, 1])) < sup_con(same, torn)
    views = unit_rows(12, 3).requires_grad_()
    before = sup_con(views, LABELS, temperature=0.2)
    before.backward()
    positives = (LABELS[:, None] == LABELS) & ~torch.eye(12, dtype=torch.bool)
    after = torch.nn.functional.normalize(views.detach() - 0.5 * views.grad, dim=1)
    assert (after @ after.T)[positives].mean() > (views @ views.T)[positives].mean()


def test_a_tiny_temperature_does_not_overflow() -> None:
    x = torch.eye(4).requires_grad_()
    for loss in (nt_xent(x, torch.eye(4), temperature=0.01), nt_xent(x, -torch.eye(4), temperature=0.01)):
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()
    assert float(loss) == pytest.approx(100 + math.log(6), rel=1e-4)
    assert math.isinf(torch.exp(torch.tensor(100.0)).item())


def test_order_does_not_matter_but_pairing_does() -> None:
    first, second, order = unit_rows(ROWS, 0), unit_rows(ROWS, 1), torch.tensor([3, 1, 0, 5, 2, 4])
    for loss in (nt_xent, dcl):
        value = loss(first, second, temperature=0.3)
        torch.testing.assert_close(loss(first[order], second[order], temperature=0.3), value)
        torch.testing.assert_close(loss(second, first, temperature=0.3), value)
        assert not torch.isclose(loss(first, second[order], temperature=0.3), value)
    views, shuffle = unit_rows(12, 3), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    value = sup_con(views, LABELS)
    torch.testing.assert_close(sup_con(views[shuffle], LABELS[shuffle] * 7 - 3), value)
    assert not torch.isclose(sup_con(views[shuffle], LABELS), value)


def test_one_label_an_item_makes_sup_con_nt_xent() -> None:
    first, second = unit_rows(ROWS, 0), unit_rows(ROWS, 1)
    labels = torch.arange(ROWS).repeat(2)
    views = torch.cat([first, second])
    torch.testing.assert_close(sup_con(views, labels, temperature=0.3), nt_xent(first, second, temperature=0.3))
    # Without the candidates within a view it is InfoNCE, which is lower.
    assert info_nce(first, second, 1 / 0.3) < nt_xent(first, second, temperature=0.3) - 1e-2


def test_where_there_is_nothing_to_learn() -> None:
    one = unit_rows(1, 0).requires_grad_()
    alone = nt_xent(one, unit_rows(1, 1))
    alone.backward()
    assert float(alone) == 0
    assert float(one.grad.abs().max()) == 0
    views = unit_rows(ROWS, 0).requires_grad_()
    strangers = sup_con(views, torch.arange(ROWS))
    strangers.backward()
    assert float(strangers) == 0
    assert float(views.grad.abs().max()) == 0
    same = sup_con(unit_rows(ROWS, 0), torch.zeros(ROWS, dtype=torch.int64))
    assert float(same) > math.log(ROWS - 1) - 1e-6  # the best there is: all alike
    assert float(sup_con(torch.ones(ROWS, DIM) / DIM**0.5, torch.zeros(ROWS))) == pytest.approx(math.log(ROWS - 1))


@pytest.mark.parametrize("loss", [nt_xent, dcl])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"second": torch.ones(3, DIM)}, "first and second need equal shapes"),
        ({"first": torch.ones(0, DIM), "second": torch.ones(0, DIM)}, "no rows"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": torch.ones(2)}, "temperature is one number"),
        ({"tile_size": 0}, "tile_size is 0"),
    ],
)
def test_wrong_arguments_are_named(loss: Callable[..., Tensor], change: dict[str, Any], named: str) -> None:
    given = {"first": unit_rows(ROWS, 0), "second": unit_rows(ROWS, 1)}
    assert torch.isfinite(loss(**given))
    with pytest.raises(ShapeError, match=named):
        loss(**{**given, **change})


def test_what_dcl_and_sup_con_alone_refuse() -> None:
    with pytest.raises(ShapeError, match="1 item"):
        dcl(unit_rows(1, 0), unit_rows(1, 1))
    with pytest.raises(ShapeError, match="sigma is 0"):
        dcl(unit_rows(3, 0), unit_rows(3, 1), sigma=0.0)
    with pytest.raises(ShapeError, match="labels need shape"):
        sup_con(unit_rows(3, 0), torch.zeros(2))
    with pytest.raises(ShapeError, match="embeddings need shape"):
        sup_con(torch.ones(3), torch.zeros(3))
