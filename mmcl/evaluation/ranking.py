"""`positive_ranks`: where each query's positives stand in the gallery, in one sweep and bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError
from mmcl.evaluation.checks import check_finite_rows, check_ids

# Tiles of at least this many rows and columns: below, BLAS takes kernels in which equal columns of one product may
# differ in the last bit, and an exact tie would be broken by the position in memory.
_TILE = 64
# Above this many positives a query, sorting its row once is cheaper than one counting pass a positive.
_SORT_ABOVE = 64
# Scores held at a time by default, 32 MiB: large products keep all cores busy, and more gains nothing.
_CHUNK_SCORES = 2**23


@dataclass(frozen=True)
class Ranks:
    """The ranks of the positives of every query that has one, ragged.

    Query ``queries[i]`` has the ascending 0-based ranks ``ranks[offsets[i]:offsets[i + 1]]``.

    Attributes:
        ranks: (p,) int64, ascending and distinct within a query.
        offsets: (q + 1,) int64.
        num_positives: (q,) int64; more than were kept where ``depth`` left some out.
        queries: (q,) int64, ascending; the queries that have a positive in the gallery.
        num_queries: all queries, those without a positive included.
        gallery_size: items in the gallery.
        depth: ranks of ``depth`` and more were left out, but for each query's best; None: all are here.
    """

    ranks: Tensor
    offsets: Tensor
    num_positives: Tensor
    queries: Tensor
    num_queries: int
    gallery_size: int
    depth: int | None = None

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def num_unanswerable(self) -> int:
        """Queries without any positive in the gallery: in no metric."""
        return self.num_queries - len(self.queries)

    def first(self) -> Tensor:
        """(q,) int64: the rank of each query's best positive."""
        return self.ranks[self.offsets[:-1]]

    def query_of_rank(self) -> Tensor:
        """(p,) int64 in [0, q): the position in ``queries`` that each entry of ``ranks`` belongs to."""
        return torch.repeat_interleave(self.offsets.diff())


def positive_ranks(
    queries: Tensor,
    gallery: Tensor,
    query_groups: Tensor,
    gallery_groups: Tensor,
    *,
    depth: int | None = None,
    chunk_size: int | None = None,
) -> Ranks:
    """Rank the positives (same group) of every query among the whole gallery by score ``queries @ gallery.T``.

    The rank of a positive is the number of negatives that score at least as high plus the number of the query's own
    positives before it: **ties count against the model**, so collapsed embeddings never score above chance. Every
    score, a positive's too, is read from the same float32 matrix product.

    Args:
        queries: (n, d) floating. Unit rows make the scores cosines; any finite rows are ranked.
        gallery: (m, d) floating.
        query_groups: (n,) integer.
        gallery_groups: (m,) integer.
        depth: keep only ranks below it, and each query's best: O(n * depth) instead of one number a positive.
        chunk_size: queries scored at a time, rounded up to a multiple of 64; memory is O(chunk_size * m) besides the
            result, and the result does not depend on it. None: as many as make 32 MiB of scores.

    Returns:
        Ranks. Queries without a positive are left out and counted in ``num_unanswerable``; no query or an empty
        gallery gives empty ranks.

    Raises:
        ShapeError: shapes or dtypes do not fit, or an embedding is NaN, infinite, or too large to score.
        ConfigError: ``depth`` or ``chunk_size`` is below 1.

    Example:
        >>> ids = torch.arange(4)
        >>> positive_ranks(torch.eye(4), torch.eye(4), ids, ids).ranks
        tensor([0, 0, 0, 0])
    """
    if any(number is not None and number < 1 for number in (chunk_size, depth)):
        raise ConfigError(f"chunk_size and depth need to be at least 1, got {chunk_size} and {depth}")
    queries, gallery = _check_pair(queries, gallery)
    query_groups = check_ids("query_groups", query_groups, length=len(queries), of="queries")
    gallery_groups = check_ids("gallery_groups", gallery_groups, length=len(gallery), of="gallery")

    columns = torch.argsort(gallery_groups, stable=True)  # (m,); a group's items stand together
    sorted_groups = gallery_groups[columns]
    starts = torch.searchsorted(sorted_groups, query_groups)
    counts = torch.searchsorted(sorted_groups, query_groups, right=True) - starts
    answerable = counts.nonzero()[:, 0]
    # Queries of like number of positives share a chunk, so that a huge group pads nobody else's row.
    order = answerable[torch.argsort(counts[answerable], stable=True)]

    padded = pad_rows(gallery, _TILE)
    chunk_size = min(chunk_size or _CHUNK_SCORES // len(padded), len(order))
    scores = torch.empty(max(1, -(-chunk_size // _TILE)) * _TILE, len(padded))  # (c, m)
    kept, sizes = [], []
    for rows in order.split(len(scores)) if len(order) else ():
        torch.mm(pad_rows(queries[rows], len(scores)), padded.T, out=scores)
        slots = torch.arange(int(counts[rows].max()))  # (k,)
        valid = slots < counts[rows, None]  # (c, k)
        index = columns[(starts[rows, None] + slots).clamp(max=len(columns) - 1)]
        ranks = _rank_rows(scores[: len(rows), : len(gallery)], index, valid)
        if depth is not None:
            valid &= (ranks < depth) | (slots == 0)
        kept.append(ranks[valid])
        sizes.append(valid.sum(1))
    return _collect(kept, sizes, order, counts, gallery_size=len(gallery), depth=depth)


def score_all(queries: Tensor, gallery: Tensor) -> Tensor:
    """All scores ``queries @ gallery.T`` at once, for small galleries such as class names; equal rows tie exactly.

    Args:
        queries: (n, d) floating.
        gallery: (m, d) floating.

    Returns:
        (n, m) float32.

    Raises:
        ShapeError: the widths differ, or an embedding is NaN, infinite, or too large to score.

    Example:
        >>> score_all(torch.eye(2), torch.eye(2)[:1])
        tensor([[1.],
                [0.]])
    """
    queries, gallery = _check_pair(queries, gallery)
    scores = pad_rows(queries, _TILE) @ pad_rows(gallery, _TILE).T
    return scores[: len(queries), : len(gallery)].contiguous()


def pad_rows(value: Tensor, rows: int) -> Tensor:
    """``value`` (n, d) with rows of zeros appended until there are at least ``rows``."""
    return value if len(value) >= rows else F.pad(value, (0, 0, 0, rows - len(value)))


def _check_pair(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Both as finite float32 matrices of one width.

    Their rows' norms are below sqrt(largest float32), or they would have overflown: so no score overflows either.
    """
    queries, gallery = check_finite_rows("queries", queries), check_finite_rows("gallery", gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise ShapeError(
            f"queries and gallery need one embedding_dim, got {tuple(queries.shape)} and {tuple(gallery.shape)}"
        )
    return queries, gallery


def _rank_rows(scores: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Ranks (c, k) ascending of the positives at columns ``index`` (c, k) where ``valid``; consumes ``scores``."""
    positives = scores.gather(1, index).masked_fill_(~valid, -torch.inf).sort(dim=1).values  # (c, k) ascending
    # Padding is -inf and sorts first, below every score: it cancels out of the differences below.
    if positives.shape[1] > _SORT_ABOVE:
        scores.numpy().sort(axis=1)
        at_least = scores.shape[1] - torch.searchsorted(scores.contiguous(), positives)
    else:
        at_least = _count_at_least(scores, positives)
    own_at_least = positives.shape[1] - torch.searchsorted(positives, positives)
    negatives_at_least = (at_least - own_at_least).flip(1)  # best positive first
    return negatives_at_least + torch.arange(positives.shape[1])


def _count_at_least(scores: Tensor, thresholds: Tensor) -> Tensor:
    """How many of each row's ``scores`` (c, m) are at least each of its ``thresholds`` (c, k): (c, k) int64."""
    counts = np.empty(thresholds.shape, dtype=np.int64)
    # Row by row in the processor's cache: no mask of the chunk's size, and no threads to wait for on a busy machine.
    for row, (values, limits) in enumerate(zip(scores.numpy(), thresholds.numpy())):
        for slot, limit in enumerate(limits):
            counts[row, slot] = np.count_nonzero(values >= limit)
    return torch.from_numpy(counts)


def _collect(
    kept: list[Tensor], sizes: list[Tensor], order: Tensor, counts: Tensor, *, gallery_size: int, depth: int | None
) -> Ranks:
    """Put the chunks' ragged results back into the order of the queries."""
    none = torch.empty(0, dtype=torch.int64)
    ranks, size = torch.cat([none, *kept]), torch.cat([none, *sizes])
    back = torch.argsort(torch.repeat_interleave(order, size), stable=True)
    queries, position = order.sort()
    offsets = torch.from_numpy(np.concatenate([[0], size[position].numpy().cumsum()]).astype(np.int64))
    return Ranks(
        ranks=ranks[back],
        offsets=offsets,
        num_positives=counts[queries],
        queries=queries,
        num_queries=len(counts),
        gallery_size=gallery_size,
        depth=depth,
    )
