"""Hard negatives over a whole set: the nearest wrong candidates of every query, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl.errors import ConfigError, ShapeError

TILE = (512, 4096)  # queries and candidates scored at a time: 8 MiB of float32 scores; larger gained no time


@dataclass(frozen=True)
class MiningRules:
    """Which candidates become negatives.

    Attributes:
        k: negatives a query, at least 1.
        positive_margin: a candidate that scores above ``p - (1 - positive_margin) * |p|`` is taken for an unmarked
            positive and left out; p is the score of the query's own positive. None: no such limit.
        near_duplicate: a candidate with at least this cosine to an item that the query owns is left out. None: no
            limit.
        skip_nearest: of the candidates that are left, so many of the nearest are passed over.

    Raises:
        ConfigError: a value out of range.
    """

    k: int
    positive_margin: float | None = 0.95
    near_duplicate: float | None = 0.98
    skip_nearest: int = 0

    def __post_init__(self) -> None:
        if self.k < 1 or self.skip_nearest < 0:
            raise ConfigError(f"k is {self.k} and skip_nearest {self.skip_nearest}; want at least 1 and 0")
        if self.positive_margin is not None and not 0 < self.positive_margin <= 2:
            raise ConfigError(
                f"positive_margin is {self.positive_margin}; want a number above 0, such as 0.95, or None"
            )
        if self.near_duplicate is not None and not -1 <= self.near_duplicate <= 1:
            raise ConfigError(f"near_duplicate is {self.near_duplicate}; want a cosine in [-1, 1], or None")

    def ceilings(self, positive_scores: Tensor) -> Tensor:
        """The highest score that a negative of each query may have: (n,) -> (n,)."""
        return positive_scores - (1 - self.positive_margin) * positive_scores.abs()


@dataclass(frozen=True)
class Mined:
    """The negatives of n queries, the nearest first.

    Attributes:
        indices: (n, k) int64, candidates; -1 where there are fewer than k.
        scores: (n, k) float32; -inf where there are fewer.
        num_positives: (query, candidate) pairs left out because they share a group.
        num_above_margin: of the other pairs, those left out because they score above the margin.
        num_near_duplicates: of the pairs still left, those left out because the candidate is a near-duplicate.
    """

    indices: Tensor
    scores: Tensor
    num_positives: int
    num_above_margin: int
    num_near_duplicates: int


@torch.no_grad()
def mine(
    queries: Tensor,
    candidates: Tensor,
    rules: MiningRules,
    *,
    query_groups: Tensor,
    candidate_groups: Tensor,
    shared_keys: tuple[Tensor, Tensor] | None = None,
    positive_scores: Tensor | None = None,
    owned: tuple[Tensor, Tensor] | None = None,
    tile: tuple[int, int] = TILE,
) -> Mined:
    """The nearest wrong candidates of every query, by exact search.

    Query i takes the ``k`` candidates j of the highest ``queries[i] @ candidates[j]``, after ``skip_nearest``, among
    those that are no positive (no shared group or key), score at most ``p_i - (1 - positive_margin) * |p_i|``, and have
    a cosine below ``near_duplicate`` to every item that query i owns (such as its own captions, for wrong captions).

    Memory is O(tile) besides arguments and result; time is one product of all pairs, and one more with the owned
    items. Candidates that tie for the last place are taken in no stated order.

    Args:
        queries: (n, d) floating, unit rows, finite.
        candidates: (m, d) likewise, on the same device; where it all happens.
        rules: how many, and which.
        query_groups: (n,) integer.
        candidate_groups: (m,) integer; a candidate of a query's group is a positive.
        shared_keys: (p, 2) integer (query, key) and (r, 2) integer (candidate, key): a candidate that has a key of the
            query is a positive too, such as one with the query's caption, or one that belongs to several groups.
        positive_scores: (n,) floating, p; wanted where ``rules.positive_margin`` is set.
        owned: (o, d) unit rows and the (o,) integer query that owns each; wanted where ``rules.near_duplicate`` is set.
        tile: queries and candidates scored at a time.

    Returns:
        ``Mined``. No queries give empty rows; a query whose candidates are all left out has -1 alone.

    Raises:
        ShapeError: shapes or dtypes do not fit, or a value is not finite.
        ConfigError: a rule is set and what it needs is not given, or ``tile`` is below 1.

    Source: de Souza P. Moreira et al. 2024, NV-Retriever (arXiv:2407.15831, sec. 3.2): positive-aware mining with a
        maximum relative to the positive's score (TopK-PercPos, 95 %), and the shifted top k. Deviations: the limit is
        below the positive also where its score is negative; near-duplicates of the positive are left out too.

    Example:
        >>> images = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        >>> rules = MiningRules(k=1, positive_margin=None, near_duplicate=None)
        >>> mine(images, images, rules, query_groups=torch.arange(3), candidate_groups=torch.arange(3)).indices.tolist()
        [[2], [2], [1]]
    """
    _check_rules(rules, positive_scores, owned, tile)
    _check_tensors(queries, candidates, query_groups, candidate_groups, shared_keys, positive_scores, owned)
    query_groups, candidate_groups = query_groups.to(queries.device), candidate_groups.to(queries.device)
    limits = None if rules.positive_margin is None else rules.ceilings(positive_scores.float().to(queries.device))
    keys = _SharedKeys(shared_keys, len(candidates), tile[1], queries.device)
    parts, counts = [], torch.zeros(3, dtype=torch.int64, device=queries.device)
    for start in range(0, len(queries), tile[0]):
        rows = slice(start, min(start + tile[0], len(queries)))
        block = _Block(
            queries[rows].float(),
            query_groups[rows],
            keys.of(rows),
            None if limits is None else limits[rows],
            None if rules.near_duplicate is None else _owned_by(owned, rows),
        )
        parts.append(_nearest(block, candidates, candidate_groups, rules, tile[1], counts))
    empty = queries.new_zeros(0, rules.k)
    scores = torch.cat([part[0] for part in parts]) if parts else empty.float()
    indices = torch.cat([part[1] for part in parts]) if parts else empty.long()
    return Mined(indices, scores, *counts.tolist())


@dataclass(frozen=True)
class _Block:
    """Some queries and what is theirs."""

    queries: Tensor  # (b, d)
    groups: Tensor  # (b,)
    shared: Callable[[int], tuple[Tensor, Tensor]]  # tile number -> (p,) rows of the block, (p,) columns of the tile
    limits: Tensor | None  # (b,)
    owned: tuple[Tensor, Tensor] | None  # (o, d), (o,) rows of the block


def _nearest(
    block: _Block, candidates: Tensor, candidate_groups: Tensor, rules: MiningRules, width: int, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """(b, k) scores and candidates of a block's queries; adds to ``counts`` what was left out."""
    depth = rules.k + rules.skip_nearest
    best = block.queries.new_full((len(block.queries), depth), -torch.inf)
    index = torch.full_like(best, -1, dtype=torch.int64)
    for start in range(0, len(candidates), width):
        columns = slice(start, min(start + width, len(candidates)))
        tile = candidates[columns].float()
        scores = block.queries @ tile.T  # (b, w)
        wrong = block.groups[:, None] == candidate_groups[columns]
        wrong[block.shared(start // width)] = True
        counts[0] += torch.count_nonzero(wrong)
        scores.masked_fill_(wrong, -torch.inf)
        if block.limits is not None:
            above = scores > block.limits[:, None]
            counts[1] += torch.count_nonzero(above)
            scores.masked_fill_(above, -torch.inf)
        if block.owned is not None:
            row, column = _near_duplicates(block.owned, tile, rules.near_duplicate, len(block.queries))
            counts[2] += torch.count_nonzero(scores[row, column] > -torch.inf)
            scores[row, column] = -torch.inf
        top, where = scores.topk(min(depth, scores.shape[1]), dim=1)
        best, order = torch.cat([best, top], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([index, where + start], dim=1).gather(1, order)[:, :depth]
        best = best[:, :depth]
    index = index.masked_fill(best == -torch.inf, -1)
    return best[:, rules.skip_nearest :], index[:, rules.skip_nearest :]


def _near_duplicates(owned: tuple[Tensor, Tensor], tile: Tensor, least: float, rows: int) -> tuple[Tensor, Tensor]:
    """Pairs (row of the block, column of the tile) where the column is too near to an item of the row; once each."""
    items, owners = owned
    near = torch.zeros(rows, len(tile), dtype=torch.bool, device=tile.device)
    for start in range(0, len(items), max(1, rows)):  # a query with very many items costs time and no memory
        part = slice(start, start + max(1, rows))
        item, column = (items[part].float() @ tile.T >= least).nonzero(as_tuple=True)
        near[owners[part][item], column] = True
    return near.nonzero(as_tuple=True)


class _SharedKeys:
    """Finds, tile by tile, which candidates have a key of which queries; memory is that of the pairs and a tile."""

    def __init__(
        self, pairs: tuple[Tensor, Tensor] | None, num_candidates: int, width: int, device: torch.device
    ) -> None:
        queries, candidates = (part.long().to(device) for part in pairs or (torch.empty(0, 2, dtype=torch.int64),) * 2)
        queries = queries[torch.argsort(queries[:, 0], stable=True)]
        self._query, self._query_key = queries[:, 0].contiguous(), queries[:, 1].contiguous()
        candidates = candidates[torch.argsort(candidates[:, 1], stable=True)]
        by_tile = torch.argsort(candidates[:, 0] // width, stable=True)
        number = torch.bincount(candidates[:, 0] // width, minlength=-(-num_candidates // width))
        self._columns = (candidates[by_tile, 0] % width).split(number.tolist())
        self._keys = candidates[by_tile, 1].split(number.tolist())

    def of(self, rows: slice) -> Callable[[int], tuple[Tensor, Tensor]]:
        """For these queries: tile number -> positions in ``rows`` and columns of the tile that share a key."""
        ends = self._query.new_tensor([rows.start, rows.stop])
        inside = slice(*torch.searchsorted(self._query, ends).tolist())
        own_row, own_key = self._query[inside] - rows.start, self._query_key[inside]

        def pairs(tile: int) -> tuple[Tensor, Tensor]:
            first = torch.searchsorted(self._keys[tile], own_key)
            number = torch.searchsorted(self._keys[tile], own_key, right=True) - first
            which = torch.repeat_interleave(number)
            offset = torch.arange(len(which), device=which.device) - (number.cumsum(0) - number)[which]
            return own_row[which], self._columns[tile][first[which] + offset]

        return pairs


def _owned_by(owned: tuple[Tensor, Tensor], rows: slice) -> tuple[Tensor, Tensor]:
    items, owners = owned
    inside = ((owners >= rows.start) & (owners < rows.stop)).nonzero()[:, 0]
    return items[inside.to(items.device)], (owners[inside] - rows.start).long().to(items.device)


def _check_rules(
    rules: MiningRules, positive_scores: Tensor | None, owned: tuple[Tensor, Tensor] | None, tile: tuple[int, int]
) -> None:
    if min(tile) < 1:
        raise ConfigError(f"tile is {tile}; want at least one query and one candidate at a time")
    if rules.positive_margin is not None and positive_scores is None:
        raise ConfigError("positive_margin is set and positive_scores are not given; give them, or set it to None")
    if rules.near_duplicate is not None and owned is None:
        raise ConfigError("near_duplicate is set and owned is not given; give it, or set near_duplicate to None")


def _check_tensors(
    queries: Tensor,
    candidates: Tensor,
    query_groups: Tensor,
    candidate_groups: Tensor,
    shared_keys: tuple[Tensor, Tensor] | None,
    positive_scores: Tensor | None,
    owned: tuple[Tensor, Tensor] | None,
) -> None:
    _check_rows("queries", queries, None)
    _check_rows("candidates", candidates, queries.shape[1])
    _check_ids("query_groups", query_groups, (len(queries),))
    _check_ids("candidate_groups", candidate_groups, (len(candidates),))
    if shared_keys is not None:
        for name, pairs, number in zip(("query", "candidate"), shared_keys, (len(queries), len(candidates))):
            _check_ids(f"shared_keys ({name}, key)", pairs, (len(pairs), 2))
            _check_range(f"shared_keys ({name}, key)", pairs[:, 0], number)
    if positive_scores is not None and (
        positive_scores.shape != (len(queries),) or not positive_scores.isfinite().all()
    ):
        raise ShapeError(
            f"positive_scores has shape {tuple(positive_scores.shape)}; want ({len(queries)},), all finite"
        )
    if owned is not None:
        _check_rows("owned items", owned[0], queries.shape[1])
        _check_ids("owners", owned[1], (len(owned[0]),))
        _check_range("owners", owned[1], len(queries))


def _check_rows(name: str, value: Tensor, width: int | None) -> None:
    if value.ndim != 2 or not value.is_floating_point() or (width is not None and value.shape[1] != width):
        wanted = "(rows, dimensions)" if width is None else f"(rows, {width})"
        raise ShapeError(f"{name} has shape {tuple(value.shape)} and type {value.dtype}; want floating {wanted}")
    # A row's norm is finite only where all of its entries are: no mask of the matrix's size.
    bad = ~torch.linalg.vector_norm(value, dim=1, dtype=torch.float32).isfinite()
    if bad.any():
        raise ShapeError(f"{name} row {int(bad.nonzero()[0, 0])} is not finite ({int(bad.sum())} such rows)")


def _check_ids(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape or value.is_floating_point() or value.dtype == torch.bool:
        raise ShapeError(f"{name} has shape {tuple(value.shape)} and type {value.dtype}; want integers {shape}")


def _check_range(name: str, ids: Tensor, number: int) -> None:
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < number:
        raise ShapeError(f"{name} names {int(ids.min())} to {int(ids.max())}; want numbers in [0, {number})")
