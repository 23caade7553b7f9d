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
TILE = 64
# Above this many positives a query, sorting its row once is cheaper than one counting pass a positive.
SORT_ABOVE = 64
# Scores held at a time by default, 48 MiB or what 128 rows take: products of 512 rows by 25,000 take 0.85 of the time
# that those of 192 rows take, and larger ones gain little.
_CHUNK_SCORES = 3 * 2**22
_CHUNK_ROWS = 128


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
        average_precision: (q,) float64, over the whole gallery, whatever ``depth`` left out.
        num_early: (q,) int64: positives among the first ``num_positives`` of the gallery, whatever ``depth`` left out.
        depth: ranks of ``depth`` and more were left out, but for each query's best; None: all are here.
    """

    ranks: Tensor
    offsets: Tensor
    num_positives: Tensor
    queries: Tensor
    num_queries: int
    gallery_size: int
    average_precision: Tensor
    num_early: Tensor
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
    exclude_self: bool = False,
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
        exclude_self: query i is item i of the gallery, and is no item of its own: neither hit nor rival.
        chunk_size: queries scored at a time, rounded up to a multiple of 64; memory is O(chunk_size * m) besides the
            result, and the result does not depend on it. None: as many as make 48 MiB of scores, and 128 at
            least.

    Returns:
        Ranks. Queries without a positive are left out and counted in ``num_unanswerable``; no query or an empty
        gallery gives empty ranks.

    Raises:
        ShapeError: shapes or dtypes do not fit, or an embedding is NaN, infinite, or too large to score; with
            ``exclude_self``, queries and gallery differ in groups.
        ConfigError: ``depth`` or ``chunk_size`` is below 1.

    Example:
        >>> ids = torch.arange(4)
        >>> positive_ranks(torch.eye(4), torch.eye(4), ids, ids).ranks
        tensor([0, 0, 0, 0])
    """
    queries, gallery, query_groups, gallery_groups = check_ranking(
        queries, gallery, query_groups, gallery_groups, depth=depth, chunk_size=chunk_size
    )
    if exclude_self and not torch.equal(query_groups, gallery_groups):
        raise ShapeError(
            f"exclude_self takes query i for item i of the gallery, so their groups must be equal; got {len(queries)} "
            f"queries and {len(gallery)} items whose groups differ"
        )
    columns = torch.argsort(gallery_groups, stable=True)  # (m,); a group's items stand together
    sorted_groups = gallery_groups[columns]
    starts = torch.searchsorted(sorted_groups, query_groups)
    counts = torch.searchsorted(sorted_groups, query_groups, right=True) - starts  # the query itself included
    answerable = (counts > int(exclude_self)).nonzero()[:, 0]
    # Queries of like number of positives share a chunk, so that a huge group pads nobody else's row.
    order = answerable[torch.argsort(counts[answerable], stable=True)]

    collected = RankCollector(
        counts - int(exclude_self), gallery_size=len(gallery) - int(exclude_self and len(gallery) > 0), depth=depth
    )
    padded = pad_rows(gallery, TILE)
    scores = score_buffer(len(order), len(padded), chunk_size)  # (c, m)
    for rows in order.split(len(scores)) if len(order) else ():
        torch.mm(pad_rows(queries[rows], len(scores)), padded.T, out=scores)
        slots = torch.arange(int(counts[rows].max()))  # (k,)
        valid = slots < counts[rows, None]  # (c, k)
        index = columns[(starts[rows, None] + slots).clamp(max=len(columns) - 1)]
        if exclude_self:
            scores[torch.arange(len(rows)), rows] = -torch.inf
            valid &= index != rows[:, None]
        collected.add(rows, rank_rows(scores[: len(rows), : len(gallery)], index, valid))
    return collected.ranks()


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
    scores = pad_rows(queries, TILE) @ pad_rows(gallery, TILE).T
    return scores[: len(queries), : len(gallery)].contiguous()


def pad_rows(value: Tensor, rows: int) -> Tensor:
    """``value`` (n, d) with rows of zeros appended until there are at least ``rows``."""
    return value if len(value) >= rows else F.pad(value, (0, 0, 0, rows - len(value)))


class RankCollector:
    """Takes the ranks of some queries after others, in any order, and puts them into the order of the queries.

    Args:
        num_positives: (n,) int64 of every query, 0 for those that will not come.
        gallery_size: items in the gallery.
        depth: as in `positive_ranks`.
    """

    def __init__(self, num_positives: Tensor, *, gallery_size: int, depth: int | None) -> None:
        self._num_positives, self._gallery_size, self._depth = num_positives, gallery_size, depth
        none = torch.empty(0, dtype=torch.int64)
        self._rows, self._kept, self._sizes, self._early = [none], [none], [none], [none]
        self._precision = [none.double()]

    def add(self, rows: Tensor, ranks: Tensor) -> None:
        """The ascending ranks (c, k) of queries ``rows`` (c,); what stands behind a query's positives is ignored."""
        counts = self._num_positives[rows, None]
        slots = torch.arange(ranks.shape[1])
        valid = slots < counts  # (c, k)
        self._early.append((valid & (ranks < counts)).sum(1))
        precision = ((slots + 1).double() / (ranks + 1)).masked_fill_(~valid, 0.0)  # positives up to each, by its place
        # One by one, unlike sum(): so that padding, which differs with the chunk, changes no bit.
        self._precision.append(precision.cumsum(1)[:, -1] / counts[:, 0])
        if self._depth is not None:
            valid &= (ranks < self._depth) | (slots == 0)
        self._rows.append(rows)
        self._kept.append(ranks[valid])
        self._sizes.append(valid.sum(1))

    def ranks(self) -> Ranks:
        """All that came."""
        rows, ranks, size = torch.cat(self._rows), torch.cat(self._kept), torch.cat(self._sizes)
        queries, position = rows.sort()
        back = torch.argsort(torch.repeat_interleave(rows, size), stable=True)
        offsets = torch.from_numpy(np.concatenate([[0], size[position].numpy().cumsum()]).astype(np.int64))
        return Ranks(
            ranks=ranks[back],
            offsets=offsets,
            num_positives=self._num_positives[queries],
            queries=queries,
            num_queries=len(self._num_positives),
            gallery_size=self._gallery_size,
            average_precision=torch.cat(self._precision)[position],
            num_early=torch.cat(self._early)[position],
            depth=self._depth,
        )


def check_ranking(
    queries: Tensor,
    gallery: Tensor,
    query_groups: Tensor,
    gallery_groups: Tensor,
    *,
    depth: int | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The embeddings as finite float32 and the groups as int64, or what is wrong with them: see `positive_ranks`."""
    if any(number is not None and number < 1 for number in (chunk_size, depth)):
        raise ConfigError(f"chunk_size and depth need to be at least 1, got {chunk_size} and {depth}")
    queries, gallery = _check_pair(queries, gallery)
    query_groups = check_ids("query_groups", query_groups, length=len(queries), of="queries")
    gallery_groups = check_ids("gallery_groups", gallery_groups, length=len(gallery), of="gallery")
    return queries, gallery, query_groups, gallery_groups


def score_buffer(num_queries: int, num_columns: int, chunk_size: int | None) -> Tensor:
    """(c, num_columns) for the scores of a chunk of queries: c is a multiple of 64, `positive_ranks` says how large."""
    chunk_size = min(chunk_size or max(_CHUNK_ROWS, _CHUNK_SCORES // max(1, num_columns)), num_queries)
    return torch.empty(max(1, -(-chunk_size // TILE)) * TILE, num_columns)


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


def rank_rows(scores: Tensor, index: Tensor, valid: Tensor) -> Tensor:
    """Ranks (c, k) ascending of the positives at columns ``index`` (c, k) where ``valid``; consumes ``scores``."""
    positives = scores.gather(1, index).masked_fill_(~valid, -torch.inf).sort(dim=1).values  # (c, k) ascending
    if positives.shape[1] > SORT_ABOVE:
        scores.numpy().sort(axis=1)
        at_least = scores.shape[1] - torch.searchsorted(scores.contiguous(), positives)
    else:
        at_least = _count_at_least(scores, positives)
    return ranks_of_counts(positives, at_least)


def ranks_of_counts(positives: Tensor, at_least: Tensor) -> Tensor:
    """Ranks (c, k) ascending, from the positives' scores (c, k) ascending and how many items score at least each.

    What pads the positives is -inf and stands first, below every score: its ranks come last and mean nothing.
    """
    own_at_least = positives.shape[1] - torch.searchsorted(positives, positives)
    negatives_at_least = (at_least - own_at_least).flip(1)  # best positive first
    return negatives_at_least + torch.arange(positives.shape[1])


def _count_at_least(scores: Tensor, thresholds: Tensor) -> Tensor:
    """How many of each row's ``scores`` (c, m) are at least each of its ``thresholds`` (c, k): (c, k) int64."""
    counts = np.empty(thresholds.shape, dtype=np.int64)
    # Row by row in the processor's cache: no mask of the chunk's size, and no threads to wait for on a busy machine.
    for row, (values, limits) in enumerate(zip(scores.numpy(), thresholds.numpy())):
        for slot, limit in enumerate(limits):
            # Padding needs no count: nobody reads its rank.
            counts[row, slot] = np.count_nonzero(values >= limit) if limit > -np.inf else len(values)
    return torch.from_numpy(counts)
