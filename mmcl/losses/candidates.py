"""Which candidate is a positive of which row, and which is left out: answered tile by tile."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcl.losses.tiles import Tile


@dataclass(frozen=True)
class Window:
    """Logits between which a negative counts, for every row (or column); detached, in the logits' dtype.

    Attributes:
        low: (b,), or None for no lower end; a negative counts from here on.
        high: (b,), or None for no upper end; a negative counts up to here.
    """

    low: Tensor | None = None
    high: Tensor | None = None

    def outside(self, logits: Tensor, part: slice, *, of_rows: bool) -> Tensor:
        """(r, c) bool: which logits of a tile are outside their row's (or column's) window; NaN is inside."""
        result = torch.zeros_like(logits, dtype=torch.bool)
        for end, is_beyond in ((self.low, torch.lt), (self.high, torch.gt)):
            if end is not None:
                limit = end[part][:, None] if of_rows else end[part][None, :]
                result |= is_beyond(logits, limit)
        return result

    def intersected(self, other: Window) -> Window:
        """What is inside of both."""

        def tighter(mine: Tensor | None, its: Tensor | None, pick: object) -> Tensor | None:
            return mine if its is None else its if mine is None else pick(mine, its)

        return Window(tighter(self.low, other.low, torch.maximum), tighter(self.high, other.high, torch.minimum))


@dataclass(frozen=True)
class Candidates:
    """What every column is to every row: its own pair, another positive, a negative, or nothing.

    Attributes:
        device: where the logits are.
        own: column of each row's own pair, always a positive: a slice of b columns, or (b,) int64 without repeats; None
            where rows have none.
        itself: the same of the column that is the row itself, which is left out.
        row_groups, column_groups: (b,), (n,) int64; equal groups are positives, or left out: see ``groups_are``.
        groups_are: "positives"; or "nothing" for extra negatives, which are never positives.
        positives: (b, n) bool; further positives, or None.
        row_ids, column_ids: (b, m), (n, m') int64; where any two are equal the candidate is left out, unless it is a
            positive. Negative ids match nothing.
        row_window, column_window: negatives outside are left out, for the row's or the column's statistics.
    """

    device: torch.device
    own: slice | Tensor | None = None
    itself: slice | Tensor | None = None
    row_groups: Tensor | None = None
    column_groups: Tensor | None = None
    groups_are: str = "positives"
    positives: Tensor | None = None
    row_ids: Tensor | None = None
    column_ids: Tensor | None = None
    row_window: Window | None = None
    column_window: Window | None = None

    @property
    def is_own_alone(self) -> bool:
        """Whether the own pair is the one positive and all else are negatives."""
        return self == Candidates(self.device, self.own)

    def own_in(self, tile: Tile) -> tuple[Tensor, Tensor] | None:
        """Positions inside a tile of its rows' own pairs; None where there are none."""
        return _positions(self.own, tile, self.device)

    def itself_in(self, tile: Tile) -> tuple[Tensor, Tensor] | None:
        """Positions inside a tile of the rows themselves; None where there are none."""
        return _positions(self.itself, tile, self.device)

    def other_positives(self, tile: Tile) -> Tensor | None:
        """(r, c) bool: positives beside the own pair; None where there are none."""
        found = None
        if self.row_groups is not None and self.groups_are == "positives":
            found = self._same_group(tile)
        if self.positives is not None:
            given = self.positives[tile.rows, tile.columns]
            found = given.clone() if found is None else found | given
        if found is None:
            return None
        for place in (self.own_in(tile), self.itself_in(tile)):
            if place is not None:
                found[place] = False
        return found if bool(found.any()) else None

    def left_out(self, tile: Tile) -> Tensor | None:
        """(r, c) bool: candidates that are nothing to the row, by ids, by group or by being the row itself."""
        found = None
        if self.row_groups is not None and self.groups_are == "nothing":
            found = self._same_group(tile)
        if self.row_ids is not None:
            matches = _any_equal(self.row_ids[tile.rows], self.column_ids[tile.columns])
            found = matches if found is None else found | matches
        place = self.itself_in(tile)
        if place is not None:
            found = self._nothing(tile) if found is None else found
            found[place] = True
        if found is None or self.own is None:
            return found if found is not None and bool(found.any()) else None
        place = self.own_in(tile)
        if place is not None:
            found[place] = False
        return found if bool(found.any()) else None

    def _same_group(self, tile: Tile) -> Tensor:
        return self.row_groups[tile.rows, None] == self.column_groups[None, tile.columns]

    def _nothing(self, tile: Tile) -> Tensor:
        return torch.zeros(tile.shape, dtype=torch.bool, device=self.device)

    def own_of_columns(self, values: Tensor) -> Tensor:
        """(b,) values of rows -> (b,) of the columns that are their own; there are as many columns as rows."""
        return torch.empty_like(values).index_copy_(0, self.own, values) if isinstance(self.own, Tensor) else values

    def own_of_rows(self, values: Tensor) -> Tensor:
        """(b,) values of columns -> (b,) of the rows whose own they are; there are as many columns as rows."""
        return values[self.own]


def _positions(columns: slice | Tensor | None, tile: Tile, device: torch.device) -> tuple[Tensor, Tensor] | None:
    if columns is None:
        return None
    if isinstance(columns, Tensor):
        mine = columns[tile.rows]
        rows = ((mine >= tile.columns.start) & (mine < tile.columns.stop)).nonzero()[:, 0]
        return None if len(rows) == 0 else (rows, mine[rows] - tile.columns.start)
    first = max(tile.rows.start, tile.columns.start - columns.start)
    last = min(tile.rows.stop, tile.columns.stop - columns.start)
    if first >= last:
        return None
    rows = torch.arange(first, last, device=device)
    return rows - tile.rows.start, rows + (columns.start - tile.columns.start)


def _any_equal(rows: Tensor, columns: Tensor) -> Tensor:
    """(r, m) and (c, m') ids -> (r, c) bool: whether a row and a column share an id; negative ids are nobody's."""
    found = torch.zeros(len(rows), len(columns), dtype=torch.bool, device=rows.device)
    for mine in rows.unbind(1):
        for its in columns.unbind(1):
            found |= (mine[:, None] == its[None, :]) & (mine >= 0)[:, None]
    return found


def distinct(groups: Tensor) -> bool:
    """Whether no group stands twice."""
    return len(torch.unique(groups)) == len(groups)
