"""A loss that is done with holds nothing: no tensor of it is left once its value is dropped, used or not."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest
import torch
from naive_pairs import unit_rows
from torch import Tensor

import mmcl.losses
from mmcl.losses import (
    barlow_twins,
    batch_triplet,
    coral,
    cosine,
    dcl,
    distillation,
    euclidean,
    info_nce,
    manhattan,
    margin_contrastive,
    mmd,
    nt_xent,
    pairwise_logistic,
    ranking_logistic,
    relational_distillation,
    sigmoid,
    similarity_preserving,
    sup_con,
    swav,
    triplet,
    vicreg,
)
from mmcl.losses.row_statistics import _Side

ROWS, TIMES = 8, 3
GROUPS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
SCALE = torch.tensor(10.0)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "barlow_twins": barlow_twins,
    "batch_triplet": lambda x, y: batch_triplet(x, GROUPS) + y.sum(),
    "coral": coral,
    "cosine": cosine,
    "dcl": dcl,
    "distillation": lambda x, y: distillation(x, y, SCALE, x.detach(), y.detach(), SCALE),
    "euclidean": euclidean,
    "info_nce": lambda x, y: info_nce(x, y, SCALE),
    "info_nce, tiles": lambda x, y: info_nce(x, y, SCALE, tile_size=3),
    "info_nce, smoothed": lambda x, y: info_nce(x, y, SCALE, label_smoothing=0.1),
    "info_nce, groups": lambda x, y: info_nce(x, y, SCALE, group_ids=GROUPS, hardness=0.5),
    "info_nce, hardest": lambda x, y: info_nce(x, y, SCALE, mining="hardest"),
    "manhattan": manhattan,
    "margin_contrastive": margin_contrastive,
    "mmd": mmd,
    "nt_xent": nt_xent,
    "pairwise_logistic": lambda x, y: pairwise_logistic(x, y, SCALE),
    "ranking_logistic": lambda x, y: ranking_logistic(x, y, SCALE, torch.arange(ROWS) % 2),
    "relational_distillation": lambda x, y: relational_distillation(x, y.detach()) + y.sum(),
    "sigmoid": lambda x, y: sigmoid(x, y, SCALE),
    "sigmoid, groups": lambda x, y: sigmoid(x, y, SCALE, group_ids=GROUPS, negative_text=y.flip(0)),
    "similarity_preserving": lambda x, y: similarity_preserving(x, y.detach()) + y.sum(),
    "sup_con": lambda x, y: sup_con(x, GROUPS) + y.sum(),
    "swav": lambda x, y: swav(x, y, torch.eye(x.shape[1])[:3]),
    "triplet": triplet,
    "vicreg": vicreg,
}


@pytest.fixture(autouse=True, scope="module")
def only_what_is_new() -> Iterator[None]:
    # What was there before is not looked through again at every count.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _live() -> int:
    gc.collect()
    return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())


def _left_behind(loss: Callable[[Tensor, Tensor], Tensor], *, backward: bool) -> int:
    """Tensors there are more after ``TIMES`` calls than after one."""

    def call() -> None:
        x, y = (rows.requires_grad_() for rows in (unit_rows(ROWS, 1), unit_rows(ROWS, 2)))
        value = loss(x, y)
        if backward:
            value.backward()

    call()
    before = _live()
    for _ in range(TIMES):
        call()
    return _live() - before


@pytest.mark.parametrize("backward", [True, False], ids=["backward", "dropped"])
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_left(name: str, backward: bool) -> None:
    assert _left_behind(LOSSES[name], backward=backward) == 0


def test_every_loss_is_tried() -> None:
    assert {name.split(",")[0] for name in LOSSES} == set(mmcl.losses.__all__) - {"sinkhorn"}  # which has no gradient


def test_a_graph_that_holds_itself_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # The control: statistics that are handed out as they are kept.
    finish = _Side.finish

    def finish_as_kept(side: _Side) -> object:
        return finish(side)._replace(negatives=side.negatives)

    monkeypatch.setattr(_Side, "finish", finish_as_kept)
    assert _left_behind(LOSSES["info_nce, groups"], backward=True) >= TIMES
