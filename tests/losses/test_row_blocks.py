"""Sums over blocks of rows: same gradients as at once, one block in memory, and no loss that holds a (b, b) matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmcl.losses import row_blocks as row_blocks_module
from mmcl.losses.batch_triplet import batch_triplet
from mmcl.losses.distillation import distillation, relational_distillation, similarity_preserving
from mmcl.losses.mmd import mmd
from mmcl.losses.pair_logistic import ranking_logistic
from mmcl.losses.row_blocks import row_blocks, sum_over_blocks
from mmcl.losses.triplet import triplet

ROWS, DIM = 300, 16
BLOCK = 4000  # pairs: 13 of 300 rows


def rows(seed: int, count: int = ROWS) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize(("count", "columns", "first", "number"), [(7, 3, 5, 2), (7, 100, 1, 7), (7, 1, 7, 1)])
def test_blocks_cover_every_row_once(
    count: int, columns: int, first: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(row_blocks_module.BLOCK_PAIRS, "cpu", 15)
    blocks = row_blocks(count, columns, torch.device("cpu"))
    assert [row for block in blocks for row in range(count)[block]] == list(range(count))
    assert (blocks[0].stop, len(blocks)) == (first, number)


def cubes(block: slice, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x[block] @ y.T).pow(3).sum(), (x[block, 0] > 0).sum()


@pytest.mark.parametrize("needed", [(True, True), (True, False), (False, True)])
def test_the_gradient_is_that_of_the_whole(needed: tuple[bool, bool]) -> None:
    def outcome(blocks: list[slice]) -> list[Tensor | None]:
        x, y = (rows(seed, 10).double().requires_grad_(need) for seed, need in enumerate(needed))
        total, count = sum_over_blocks(cubes, blocks, x, y)
        assert not count.requires_grad
        (total.square() / count).backward()
        return [total, count, x.grad, y.grad]

    whole = outcome([slice(0, 10)])
    for one, other in zip(whole, outcome([slice(0, 4), slice(4, 8), slice(8, 10)])):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
    assert not torch.isclose(whole[0], outcome([slice(0, 4), slice(4, 8)])[0])


def test_without_gradients_none_are_computed() -> None:
    blocks = [slice(0, 4), slice(4, 10)]
    x, y = rows(0, 10).requires_grad_(), rows(1, 10)
    grad_modes = []

    def watched(block: slice, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        grad_modes.append(torch.is_grad_enabled() and x.requires_grad)
        return cubes(block, x, y)

    with torch.no_grad():
        assert not sum_over_blocks(watched, blocks, x, y)[0].requires_grad
    assert not sum_over_blocks(watched, blocks, x.detach(), y)[0].requires_grad
    assert grad_modes == [False] * 4
    assert sum_over_blocks(watched, blocks, x, y)[0].requires_grad
    assert grad_modes[4:] == [True] * 2


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.elements = max(self.elements, tensor.numel())
        return result


def pairs_of_four() -> Tensor:
    return torch.arange(ROWS) // 4


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "triplet all": lambda x, y: triplet(x, y),
    "triplet hardest": lambda x, y: triplet(x, y, mining="hardest", group_ids=pairs_of_four()),
    "triplet semi_hard": lambda x, y: triplet(x, y, mining="semi_hard"),
    "batch_triplet all": lambda x, y: batch_triplet(x, pairs_of_four(), mining="all") + y.sum(),
    "batch_triplet hardest": lambda x, y: batch_triplet(x, pairs_of_four()) + y.sum(),
    "batch_triplet semi_hard": lambda x, y: batch_triplet(x, pairs_of_four(), mining="semi_hard") + y.sum(),
    "batch_triplet manhattan": lambda x, y: (
        batch_triplet(x, pairs_of_four(), mining="all", distance="manhattan") + y.sum()
    ),
    "distillation": lambda x, y: distillation(x, y, 20.0, y.detach(), x.detach(), 10.0),
    "relational_distillation": lambda x, y: relational_distillation(x, rows(2)) + y.sum(),
    "similarity_preserving": lambda x, y: similarity_preserving(x, rows(2)) + y.sum(),
    "mmd": lambda x, y: mmd(x, y, bandwidths=[0.5, 1.0]),
    "ranking_logistic": lambda x, y: ranking_logistic(x, y, 10.0, pairs_of_four() % 2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_holds_a_matrix_of_all_pairs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome() -> tuple[int, list[Tensor]]:
        x, y = rows(0).requires_grad_(), rows(1).requires_grad_()
        with Largest() as largest:
            loss = LOSSES[name](x, y)
            loss.backward()
        return largest.elements, [loss.detach(), x.grad, y.grad]

    at_once, expected = outcome()
    monkeypatch.setitem(row_blocks_module.BLOCK_PAIRS, "cpu", BLOCK)
    in_blocks, found = outcome()
    assert at_once >= ROWS**2
    assert in_blocks <= ROWS * DIM
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
