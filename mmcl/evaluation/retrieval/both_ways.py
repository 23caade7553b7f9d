"""`rank_both_ways`: both directions of a retrieval from one sweep over the scores, in bounded memory."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mmcl.evaluation.retrieval.ranking import (
    SORT_ABOVE,
    TILE,
    RankCollector,
    Ranks,
    check_ranking,
    pad_rows,
    positive_ranks,
    rank_rows,
    ranks_of_counts,
    score_buffer,
)
from mmcl.logs import get_logger

log = get_logger(__name__)

# Rows whose positives' scores are computed ahead at a time: their columns stand close together, so little is scored
# that is not asked for.
_AHEAD_ROWS = 128
# Rows compared at a time: their count of hits fits one byte.
_BYTE_ROWS = 128
# Columns compared at a time: the comparison's result stays in the processor's cache.
_CACHED_COLUMNS = 8192


def rank_both_ways(
    images: Tensor,
    texts: Tensor,
    image_groups: Tensor,
    text_groups: Tensor,
    *,
    depth: int | None = None,
    chunk_size: int | None = None,
) -> tuple[Ranks, Ranks]:
    """The ranks of texts for each image and of images for each text: `positive_ranks` twice, for one matrix product.

    Each chunk of images is scored once. Its rows say where the images' texts stand; its columns are compared with the
    scores of the texts' own images, which were computed ahead, and the counts are added up over the chunks. Where the
    two products differ in a bit (a library that rounds by the shape of the product), or a group is so large that
    sorting is cheaper than counting, each direction has its own sweep.

    Args:
        images: (n, d) floating.
        texts: (m, d) floating.
        image_groups: (n,) integer.
        text_groups: (m,) integer.
        depth: as for `positive_ranks`.
        chunk_size: images scored at a time, as for `positive_ranks`; results do not depend on it.

    Returns:
        Ranks of images as queries, and of texts as queries; bit for bit those of `positive_ranks`.

    Raises:
        ShapeError, ConfigError: as `positive_ranks`.

    Example:
        >>> ids = torch.arange(3)
        >>> i2t, t2i = rank_both_ways(torch.eye(3), torch.eye(3), ids, ids)
        >>> t2i.ranks
        tensor([0, 0, 0])
    """
    images, texts, image_groups, text_groups = check_ranking(
        images, texts, image_groups, text_groups, depth=depth, chunk_size=chunk_size
    )
    found = _one_sweep(images, texts, image_groups, text_groups, depth=depth, chunk_size=chunk_size)
    if found is not None:
        return found
    i2t = positive_ranks(images, texts, image_groups, text_groups, depth=depth, chunk_size=chunk_size)
    return i2t, positive_ranks(texts, images, text_groups, image_groups, depth=depth)


class _Order:
    """Rows and columns sorted by group, groups by their number of rows and then of columns.

    Row r's positives are the columns ``starts[r]`` to ``starts[r] + counts[r]``, in the sorted order of both sides.
    """

    def __init__(self, row_groups: Tensor, column_groups: Tensor) -> None:
        num_rows = len(row_groups)
        ids, group = torch.cat([row_groups, column_groups]).unique(return_inverse=True)
        rows = torch.bincount(group[:num_rows], minlength=len(ids))  # of each group
        columns = torch.bincount(group[num_rows:], minlength=len(ids))
        in_order = torch.from_numpy(np.lexsort((columns.numpy(), rows.numpy())))
        place = torch.empty_like(in_order)
        place[in_order] = torch.arange(len(ids))
        self.rows = torch.argsort(place[group[:num_rows]], stable=True)
        self.columns = torch.argsort(place[group[num_rows:]], stable=True)
        row_place, column_place = place[group[:num_rows]][self.rows], place[group[num_rows:]][self.columns]
        self.counts, self.row_counts = columns[in_order][row_place], rows[in_order][column_place]
        self.starts = torch.searchsorted(column_place, row_place)
        self.row_starts = torch.searchsorted(row_place, column_place)


class _ColumnCounts:
    """For every column, the scores of its positive rows, and how many rows score at least as high.

    A column's positives have slots 0, 1, ...; columns stand in ascending order of their number of positives, so the
    columns that have a slot are those from ``first[slot]`` on. What is held is one number a positive.
    """

    def __init__(self, order: _Order) -> None:
        self._row_starts, self._counts = order.row_starts, order.row_counts
        slots = torch.arange(int(order.row_counts.max()))
        self._first = torch.searchsorted(order.row_counts, slots, right=True)
        lengths = len(order.row_counts) - self._first
        self._base = lengths.cumsum(0) - lengths - self._first
        self._scores = torch.full((int(lengths.sum()),), torch.nan)
        self._at_least = np.zeros(len(self._scores), dtype=np.int32)
        self._bytes = np.empty((_BYTE_ROWS, _CACHED_COLUMNS), dtype=bool)

    def _places(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._base[rows - self._row_starts[columns]] + columns

    def set(self, rows: Tensor, columns: Tensor, scores: Tensor) -> None:
        """Take down the scores of pairs (p,)."""
        self._scores[self._places(rows, columns)] = scores

    def agree(self, rows: Tensor, columns: Tensor, scores: Tensor) -> bool:
        """Whether the scores of pairs (p,) are those taken down, bit for bit."""
        return torch.equal(self._scores[self._places(rows, columns)], scores)

    def count(self, scores: Tensor) -> None:
        """Compare a chunk of rows (c, m) with the scores taken down."""
        values, limits = scores.numpy(), self._scores.numpy()
        for slot, first in enumerate(self._first.tolist()):
            base = int(self._base[slot])
            for low in range(first, values.shape[1], _CACHED_COLUMNS):
                high = min(low + _CACHED_COLUMNS, values.shape[1])
                mine = slice(base + low, base + high)
                for row in range(0, len(values), _BYTE_ROWS):
                    block = values[row : row + _BYTE_ROWS, low:high]
                    hits = self._bytes[: len(block), : high - low]
                    np.greater_equal(block, limits[mine], out=hits)
                    self._at_least[mine] += np.add.reduce(hits.view(np.uint8), axis=0, dtype=np.uint8)

    def ranks(self, order: _Order, *, gallery_size: int, depth: int | None) -> Ranks:
        """The columns' ranks, in the columns' own order."""
        counts = torch.empty_like(self._counts)
        counts[order.columns] = self._counts
        collected = RankCollector(counts, gallery_size=gallery_size, depth=depth)
        bounds = [*self._first.tolist(), len(self._counts)]
        for number, (low, high) in enumerate(pairwise(bounds), start=1):
            places = self._base[:number] + torch.arange(low, high)[:, None]  # (c, number); these have exactly so many
            positives, by_score = self._scores[places].sort(dim=1)
            at_least = torch.from_numpy(self._at_least)[places].gather(1, by_score).long()
            collected.add(order.columns[low:high], ranks_of_counts(positives, at_least))
        return collected.ranks()


def _one_sweep(
    rows: Tensor,
    columns: Tensor,
    row_groups: Tensor,
    column_groups: Tensor,
    *,
    depth: int | None,
    chunk_size: int | None,
) -> tuple[Ranks, Ranks] | None:
    """Both directions of one sweep, or None where that cannot be done or would be slower."""
    order = _Order(row_groups, column_groups)
    most = max([0, *order.counts.tolist(), *order.row_counts.tolist()])
    if not 0 < most <= SORT_ABOVE:
        return None
    sorted_columns = _take(columns, order.columns)
    padded = pad_rows(sorted_columns, TILE)
    buffer = score_buffer(len(rows), len(padded), chunk_size)
    ahead = _ColumnCounts(order)
    _score_ahead(rows, padded, order, ahead)

    counts = torch.empty_like(order.counts)
    counts[order.rows] = order.counts
    collected = RankCollector(counts, gallery_size=len(columns), depth=depth)
    for start in range(0, len(rows), len(buffer)):
        sorted_rows = order.rows[start : start + len(buffer)]
        torch.mm(pad_rows(rows[sorted_rows], len(buffer)), padded.T, out=buffer)
        scores = buffer[: len(sorted_rows), : len(columns)]
        ahead.count(scores)
        for one in _alike(order.counts[start : start + len(buffer)]):
            mine = torch.arange(start + one.start, start + one.stop)
            index, valid = _positives(order, mine)
            pair = (mine[:, None].expand_as(index)[valid], index[valid])
            if not ahead.agree(*pair, scores[pair[0] - start, pair[1]]):
                log.debug("scores depend on the shape of the product here; each direction is swept by itself")
                return None
            if index.shape[1]:
                collected.add(order.rows[mine], rank_rows(scores[one], index, valid))
    return collected.ranks(), ahead.ranks(order, gallery_size=len(rows), depth=depth)


def _score_ahead(rows: Tensor, columns: Tensor, order: _Order, ahead: _ColumnCounts) -> None:
    """Take down the score of every positive pair, from products over the columns that stand around them."""
    for mine in torch.arange(len(rows)).split(_AHEAD_ROWS):
        mine = mine[order.counts[mine] > 0]
        if not len(mine):
            continue
        index, valid = _positives(order, mine)
        low, high = int(index[valid].min()), int(index[valid].max()) + 1
        # As wide as the tiles of the sweep at least, and as their multiple, which takes the same kernels.
        width = -(-(high - low) // TILE) * TILE
        low = max(0, min(low, len(columns) - width))
        block = pad_rows(rows[order.rows[mine]], _AHEAD_ROWS) @ columns[low : low + width].T
        pair = (mine[:, None].expand_as(index)[valid], index[valid])
        ahead.set(*pair, block[: len(mine)].gather(1, (index - low).clamp(0, block.shape[1] - 1))[valid])


def _positives(order: _Order, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Columns (c, k) of the positives of sorted rows (c,), and which of them there are."""
    counts = order.counts[rows, None]
    slots = torch.arange(int(counts.max()))
    return (order.starts[rows, None] + slots).clamp(max=len(order.columns) - 1), slots < counts


def _alike(counts: Tensor) -> list[slice]:
    """Runs of rows of one number of positives, so that none pads another."""
    ends = [*(counts.diff().nonzero()[:, 0] + 1).tolist(), len(counts)]
    return [slice(start, end) for start, end in zip([0, *ends], ends)]


def _take(value: Tensor, order: Tensor) -> Tensor:
    """``value[order]``, without a copy where that is ``value`` itself."""
    return value if torch.equal(order, torch.arange(len(order))) else value[order]
