"""The score from which on a row's negatives are its hardest ones, found tile by tile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmcl.losses.candidates import Window
from mmcl.losses.pair_batch import Comparison, PairBatch
from mmcl.losses.row_statistics import Sweep
from mmcl.losses.tiles import TileProducts, tile_shape, tiles


@torch.no_grad()
def hardest_windows(
    compared: Sequence[Sequence[Comparison | None]],
    batch: PairBatch,
    sweep: Sweep,
    *,
    count: int,
    within: Window | None,
) -> list[Window | None]:
    """A window for each direction that lets a row's ``count`` hardest negatives count, ties with the last included.

    Args:
        compared: for each direction the comparisons whose rows it has; where ``sweep.both``, the columns of the very
            first one are the second direction's too.
        batch: scale and bias.
        sweep: the tiles must be those of the loss: the same product in another tile may differ in its last bit, and
            the last of the hardest be lost.
        count: at least 1.
        within: negatives outside do not count.
    """
    best: list[Tensor | None] = [None, None]
    for number, comparisons in enumerate(compared):
        for position, comparison in enumerate(comparisons):
            if comparison is None:
                continue
            both = sweep.both and number == position == 0
            rows, columns = _largest(comparison, batch, sweep, count, within, both=both)
            best[number] = _top(best[number], rows, count)
            if both:
                best[1] = _top(best[1], columns, count)
    windows = []
    for found in best:
        if found is None:
            windows.append(within)
            continue
        lowest = found[:, -1] if found.shape[1] == count else torch.full_like(found[:, -1], -torch.inf)
        window = Window(low=lowest)
        windows.append(window if within is None else window.intersected(within))
    return windows


def _largest(
    comparison: Comparison, batch: PairBatch, sweep: Sweep, count: int, within: Window | None, *, both: bool
) -> tuple[Tensor, Tensor | None]:
    """(b, <= count) largest logits of negatives of every row, and of every column."""
    x, y, candidates = comparison.rows, comparison.columns, comparison.candidates
    products = TileProducts(x, y, batch.scale, batch.bias)
    shape = tile_shape(len(x), len(y), device=x.device, tile_size=sweep.tile_size)
    found: dict[tuple[int, int], Tensor] = {}
    for tile in tiles(len(x), len(y), shape):
        logits = products.logits(tile)
        for role in (candidates.own_in(tile), candidates.other_positives(tile), candidates.left_out(tile)):
            if role is not None:
                logits[role] = -torch.inf
        for axis, part in ((1, tile.rows), (0, tile.columns))[: 2 if both else 1]:
            values = logits
            if within is not None:
                values = logits.masked_fill(within.outside(logits, part, of_rows=axis == 1), -torch.inf)
            key = (axis, part.start)
            found[key] = _top(found.get(key), values if axis == 1 else values.T, count)
    rows = torch.cat([found[key] for key in sorted(found) if key[0] == 1])
    return rows, torch.cat([found[key] for key in sorted(found) if key[0] == 0]) if both else None


def _top(known: Tensor | None, values: Tensor, count: int) -> Tensor:
    values = values if known is None else torch.cat([known, values], dim=1)
    return values.topk(min(count, values.shape[1]), dim=1).values
