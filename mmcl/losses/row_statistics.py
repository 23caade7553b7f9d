r"""What a softmax loss needs to know of every row of the logits, without ever holding the logits.

For logits :math:`z_{ij} = s\,\langle x_i, y_j\rangle + b`, positives :math:`P(i)` and negatives :math:`N(i)`, four
numbers a row carry every loss of the InfoNCE family:

.. math::
    n_i = \log \sum_{j \in N(i)} w_{ij} e^{z_{ij}} \qquad p_i = \log \sum_{j \in P(i)} e^{z_{ij}} \qquad
    m_i = p_i - \frac{1}{|P(i)|} \sum_{j \in P(i)} z_{ij} \qquad a_i = \sum_j z_{ij}

The loss is then arithmetic on vectors of length b, left to autograd; its gradients on these numbers come back here,
where the logits are computed a second time, tile by tile, to be turned into gradients of x and y (as FlashAttention
does, Dao et al. 2022, arXiv:2205.14135, and Inf-CL for this loss, Cheng et al. 2024, arXiv:2410.17243). Both directions
share each tile: the forward is one matrix product, the backward three. Memory: O((b + n) d + tile).

Positives and negatives never meet in one sum. A row that is told apart well has :math:`n_i \ll p_i`, its loss is
softplus(n_i - p_i), and neither value nor gradient suffers from cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmcl.losses.candidates import Candidates, Window
from mmcl.losses.tiles import KEPT_BYTES, Tile, TileProducts, computing_dtype, tile_shape, tiles

# exp(z - c) with one c for a whole tile serves rows and columns at once. It is exact enough as long as no row's or
# column's own maximum is so far below c that its terms lose bits; where one is, the tile is taken row by row.
SMALLEST_SUM = 1e-25
LARGEST_SHIFT = 50.0
LOWEST = -1e30  # stands for -inf where a difference of two is taken


class RowStatistics(NamedTuple):
    """Numbers of every row, each (b,), in the computing dtype; the first four carry gradient.

    Attributes:
        negatives: log-sum-exp of (1 + hardness) z over negatives; -inf for a row without any. Its gradient is that of
            weights exp(hardness z) held constant.
        positives: log-sum-exp over positives; -inf for a row without any.
        spread: ``positives`` minus the mean logit of the positives; exactly 0 where there is one positive or none.
        total: sum of the logits of all that is not left out; 0 unless ``Sweep.with_total``.
        weights: log-sum-exp of hardness * z over negatives; log(num_negatives) without hardness.
        num_negatives, num_positives, num_all: how many; ``num_all`` goes with ``total``.
    """

    negatives: Tensor
    positives: Tensor
    spread: Tensor
    total: Tensor
    weights: Tensor
    num_negatives: Tensor
    num_positives: Tensor
    num_all: Tensor


NUM_WITH_GRADIENT, NUM_STATISTICS = 4, len(RowStatistics._fields)


@dataclass(frozen=True)
class Sweep:
    """How the logits are gone through.

    Attributes:
        both: statistics of the columns too (``y`` then plays the rows' part on the transposed logits).
        symmetric: x is y and the candidates are symmetric: tiles above the diagonal serve both sides.
        hardness: beta of the negatives' weights.
        with_total: whether ``total`` is wanted.
        tile_size: see ``tile_shape``.
    """

    both: bool = False
    symmetric: bool = False
    hardness: float = 0.0
    with_total: bool = False
    tile_size: int | None = None


def row_statistics(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, candidates: Candidates, sweep: Sweep
) -> tuple[RowStatistics, RowStatistics | None]:
    """Statistics of the rows of ``scale * x @ y.T + bias``, and of its columns where ``sweep.both``.

    Args:
        x: (b, d) rows, any floating dtype.
        y: (n, d) columns.
        scale: () > 0.
        bias: () or None.
        candidates: what each column is to each row.
        sweep: how; ``symmetric`` gives the rows' statistics alone, which are the columns' too.
    """
    found = _Statistics.apply(x, y, scale, bias, candidates, sweep)
    columns = RowStatistics(*found[NUM_STATISTICS:]) if sweep.both else None
    return RowStatistics(*found[:NUM_STATISTICS]), columns


class _Side:
    """The running statistics of the rows, or of the columns."""

    def __init__(self, own: Tensor | None, count: int, *, window: Window | None, like: Tensor, hardness: float) -> None:
        self.window, self.hardness = window, hardness
        low = like.new_full((count,), -torch.inf)
        self.negatives, self.num_negatives = low.clone(), like.new_zeros(count)
        self.weights = low.clone() if hardness else None  # log-sum-exp of hardness * z over negatives
        has_own = own is not None
        self.positives = own.clone() if has_own else low.clone()
        self.sum_positives = own.clone() if has_own else like.new_zeros(count)
        self.num_positives = like.new_full((count,), float(has_own))
        self.total, self.num_all = like.new_zeros(count), like.new_zeros(count)

    def finish(self) -> RowStatistics:
        """The statistics of all tiles together.

        They become the graph's: tensors that this side keeps for the backward would then hold the graph that holds
        them, for good, so that the graph is handed others, of the same memory.
        """
        many = self.num_positives > 1
        spread = torch.where(many, self.positives - self.sum_positives / self.num_positives.clamp(min=1), 0)
        weights = self.num_negatives.log() if self.weights is None else self.weights
        counts = (self.num_negatives, self.num_positives, self.num_all)
        found = (self.negatives, self.positives, spread, self.total, weights, *counts)
        return RowStatistics(*[values.detach() for values in found])


class _Gradients:
    """What of the gradients on one side's statistics a tile needs, row by row."""

    def __init__(self, side: _Side, gradients: tuple[Tensor | None, ...], *, with_total: bool) -> None:
        zeros = torch.zeros_like(side.negatives)
        negatives, positives, spread, total = (zeros if g is None else g for g in gradients)
        self.side = side
        # A row without negatives has no gradient to spread over them, and no finite logarithm to subtract.
        none = torch.isneginf(side.negatives)
        self.on_negatives = torch.where(none, 0, negatives)
        self.log_sum = torch.where(none, torch.inf, side.negatives)
        self.on_all = total if with_total else None
        lacking = side.num_positives == 0
        self.on_positives = torch.where(lacking, 0, positives)
        self.on_spread = torch.where(side.num_positives > 1, spread, 0)
        self.on_each = self.on_spread / side.num_positives.clamp(min=1)
        self.log_positives = torch.where(lacking, torch.inf, side.positives)

    def on_bias(self) -> Tensor:
        """(): log-sums move with the bias one to one, spreads do not, totals with each of their logits."""
        total = (self.on_negatives + self.on_positives).sum()
        return total if self.on_all is None else total + (self.on_all * self.side.num_all).sum()

    def on_own(self, own: Tensor) -> Tensor:
        """(b,): gradients on the logits of the own pairs."""
        found = torch.exp(own - self.log_positives) * (self.on_positives + self.on_spread) - self.on_each
        return found if self.on_all is None else found + self.on_all

    def add_positives(self, gradient: Tensor, logits: Tensor, positive: Tensor, part: slice, axis: int) -> None:
        """Add the gradients on a tile's positives beside the own pairs."""
        log_sum, share, each = (
            values[part].unsqueeze(axis)
            for values in (self.log_positives, self.on_positives + self.on_spread, self.on_each)
        )
        gradient += torch.where(positive, torch.exp(logits - log_sum) * share - each, 0)


class _Statistics(torch.autograd.Function):
    """Forward: one product a tile. Backward: the tile again (unless it was kept), and one product for each side."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, candidates: Candidates, sweep: Sweep
    ) -> tuple[Tensor, ...]:
        with torch.autocast(x.device.type, enabled=False):
            work = _collected_work(x, y, scale, bias, candidates, sweep)
        ctx.save_for_backward(x, y, scale, *([] if bias is None else [bias]))
        ctx.work = work
        ctx.set_materialize_grads(False)
        found = [side.finish() for side in work.sides]
        ctx.mark_non_differentiable(*[values for side in found for values in side[NUM_WITH_GRADIENT:]])
        return tuple(values for side in found for values in side)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, scale, *bias = ctx.saved_tensors
        with torch.autocast(x.device.type, enabled=False):
            on_rows, on_columns, on_scale, on_bias = ctx.work.spread(gradients)
        return (
            on_rows.to(x.dtype),
            on_columns.to(y.dtype),
            on_scale.to(scale.dtype).reshape(scale.shape),
            on_bias.to(bias[0].dtype).reshape(bias[0].shape) if bias else None,
            None,
            None,
        )


def _collected_work(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, candidates: Candidates, sweep: Sweep
) -> Any:
    """The pass of a call with its statistics collected: by fused kernels on a GPU, tile by tile elsewhere."""
    if x.is_cuda:
        from mmcl.losses import fused  # imports Triton

        if fused.is_wanted(x, y, candidates, sweep):
            return fused.collected_work(x, y, scale, bias, candidates, sweep)
    work = _Work(x, y, scale, bias, candidates, sweep)
    work.collect()
    return work


class _Work:
    """One call's pass over the tiles, forward and backward."""

    def __init__(
        self, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, candidates: Candidates, sweep: Sweep
    ) -> None:
        dtype = computing_dtype(x, y)
        self.candidates, self.sweep = candidates, sweep
        shape = tile_shape(len(x), len(y), device=x.device, tile_size=sweep.tile_size)
        self.tiles = list(tiles(len(x), len(y), shape, upper=sweep.symmetric))
        number = None if bias is None else bias.detach().to(dtype).reshape(())
        self.products = TileProducts(x.detach(), y.detach(), scale.detach().to(dtype).reshape(()), number)
        self.own = None if candidates.own is None else self.products.paired(candidates.own)
        like = x.new_empty(0, dtype=dtype)
        self.rows = _Side(self.own, len(x), window=candidates.row_window, like=like, hardness=sweep.hardness)
        self.sides = [self.rows]
        if sweep.both:
            own = None if self.own is None else candidates.own_of_columns(self.own)
            window = candidates.column_window
            self.sides.append(_Side(own, len(y), window=window, like=like, hardness=sweep.hardness))
        # One mask and one exponential serve rows and columns, unless each has a window or weights of its own.
        alike = candidates.row_window is None and candidates.column_window is None and not sweep.hardness
        self.sides_alike = alike
        self.kept: dict[tuple[int, int], Tensor] = {}
        self._budget = KEPT_BYTES.get(x.device.type, 0)
        # Such as a queue's: half the products of the backward are saved.
        self.columns_learn = y.requires_grad
        # Looking at a value makes a GPU wait; there, rows and columns always have maxima of their own.
        self._may_look = x.device.type == "cpu"

    def collect(self) -> None:
        """Fill the sides' statistics."""
        for tile in self.tiles:
            logits = self._kept_logits(tile)
            positive, nothing, gone = self._roles(tile)
            parts = self._parts(tile, self.sides)
            if self.sweep.with_total:
                self._count_all(tile, parts, logits, nothing)
            self._hide_own(tile, logits)
            if positive is not None:
                _take_positives(parts, logits, positive)
            for these in [parts] if self.sides_alike else [[part] for part in parts]:
                self._take_negatives(tile, these, logits, gone)

    def spread(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients on the statistics -> on x, y, scale and bias."""
        products, with_total = self.products, self.sweep.with_total
        on_rows, on_columns = products.zeros()
        on_sides = [
            _Gradients(side, gradients[start : start + NUM_WITH_GRADIENT], with_total=with_total)
            for start, side in zip(range(0, len(gradients), NUM_STATISTICS), self.sides)
        ]
        if self.own is not None:
            on_own = on_sides[0].on_own(self.own)
            if self.sweep.both:
                of_columns = on_sides[1].on_own(self.candidates.own_of_columns(self.own))
                on_own = on_own + self.candidates.own_of_rows(of_columns)
            products.add_paired_gradients(self.candidates.own, on_own, on_rows, on_columns)
        for tile in self.tiles:
            logits = self.kept.get(tile.corner)
            if logits is None:
                logits = products.logits(tile)
                self._hide_own(tile, logits)
            on_logits = self._on_logits(tile, logits, on_sides)
            products.add_gradients(tile, on_logits, on_rows, on_columns if self.columns_learn else None)
        on_scale = products.row_products(on_rows)
        on_bias = sum(side.on_bias() for side in on_sides)
        return on_rows.mul_(products.scale), on_columns, on_scale, on_bias

    # -- what stands where in a tile -----------------------------------------------------------------------------

    def _kept_logits(self, tile: Tile) -> Tensor:
        """A tile's logits, in memory of their own where the backward will find them."""
        size = tile.shape[0] * tile.shape[1] * self.products.dtype.itemsize
        if size > self._budget:
            return self.products.logits(tile)
        self._budget -= size
        logits = self.products.logits(tile, out=self.products.new_tile(tile))
        self.kept[tile.corner] = logits
        return logits

    def _hide_own(self, tile: Tile, logits: Tensor) -> None:
        """Own pairs are reckoned apart, row by row: in a tile they count for nothing."""
        place = self.candidates.own_in(tile)
        if place is not None:
            logits[place] = -torch.inf

    def _roles(self, tile: Tile) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(r, c) bool or None, own pairs apart: positives, what is left out, and both together."""
        positive, nothing = self.candidates.other_positives(tile), self.candidates.left_out(tile)
        if positive is None or nothing is None:
            return positive, nothing, nothing if positive is None else positive
        nothing &= ~positive
        return positive, nothing, positive | nothing

    def _parts(self, tile: Tile, sides: list[Any]) -> list[tuple[Any, slice, int]]:
        """What a tile counts for: a side, the part of it, and the axis of the tile that is summed over."""
        parts = [(sides[0], tile.rows, 1)]
        if self.sweep.both:
            parts.append((sides[1], tile.columns, 0))
        elif self.sweep.symmetric and not tile.on_diagonal:  # there the rows say it all
            parts.append((sides[0], tile.columns, 0))
        return parts

    def _values(self, tile: Tile, logits: Tensor, gone: Tensor | None, parts: list[tuple[Any, slice, int]]) -> Tensor:
        """Logits with -inf for all that is no negative of these sides."""
        if not self.sides_alike:
            ((side, part, axis),) = parts
            window = (side.side if isinstance(side, _Gradients) else side).window
            if window is not None:
                outside = window.outside(logits, part, of_rows=axis == 1)
                gone = outside if gone is None else outside | gone
        if gone is None:
            return logits
        return self.products.scratch("masked", tile).copy_(logits).masked_fill_(gone, -torch.inf)

    # -- forward -------------------------------------------------------------------------------------------------

    def _count_all(
        self, tile: Tile, parts: list[tuple[_Side, slice, int]], logits: Tensor, nothing: Tensor | None
    ) -> None:
        place = self.candidates.own_in(tile)
        if place is not None:
            logits[place] = self.own[tile.rows][place[0]]
        kept = logits if nothing is None else logits.masked_fill(nothing, 0)
        for side, part, axis in parts:
            side.total[part] += kept.sum(axis)
            side.num_all[part] += logits.shape[axis] if nothing is None else (~nothing).sum(axis)

    def _take_negatives(
        self, tile: Tile, parts: list[tuple[_Side, slice, int]], logits: Tensor, gone: Tensor | None
    ) -> None:
        values, beta = self._values(tile, logits, gone, parts), self.sweep.hardness
        if not beta:
            self._add_log_sums(tile, values, [(side.negatives, part, axis) for side, part, axis in parts])
        else:
            for side, part, axis in parts:
                self._add_log_sums(tile, values * (1 + beta), [(side.negatives, part, axis)])
                self._add_log_sums(tile, values * beta, [(side.weights, part, axis)])
        place = self.candidates.own_in(tile)
        for side, part, axis in parts:
            if values is logits:
                side.num_negatives[part] += values.shape[axis]
                if place is not None:
                    side.num_negatives[part][place[1 - axis]] -= 1
            else:
                side.num_negatives[part] += (~torch.isneginf(values)).sum(axis)

    def _add_log_sums(self, tile: Tile, values: Tensor, totals: list[tuple[Tensor, slice, int]]) -> None:
        """Add a tile's log-sum-exp to running ones; one exponential for rows and columns where their maxima allow."""
        if self._may_look:
            top = values.max().clamp(min=LOWEST)
            terms = torch.sub(values, top, out=self.products.scratch("terms", tile)).exp_()
            sums = [terms.sum(axis) for _, _, axis in totals]
            if all(float(s.min()) > SMALLEST_SUM for s in sums):  # NaN is not
                for (total, part, _), found in zip(totals, sums):
                    total[part] = torch.logaddexp(total[part], found.log_().add_(top))
                return
        for total, part, axis in totals:
            total[part] = torch.logaddexp(total[part], _log_sum_exp(values, axis))

    # -- backward ------------------------------------------------------------------------------------------------

    def _on_logits(self, tile: Tile, logits: Tensor, on_sides: list[_Gradients]) -> Tensor:
        """(r, c) gradient on a tile's logits, own pairs apart."""
        positive, nothing, gone = self._roles(tile)
        parts = self._parts(tile, on_sides)
        if self.sides_alike:
            gradient = self._on_negatives(tile, self._values(tile, logits, gone, parts), parts)
        else:
            gradient = torch.zeros_like(logits)
            for part in parts:
                values = self._values(tile, logits, gone, [part])
                gradient += self._on_negatives(tile, values * (1 + self.sweep.hardness), [part])
        for side, part, axis in parts:
            if positive is not None:
                side.add_positives(gradient, logits, positive, part, axis)
            if side.on_all is not None:
                gradient += side.on_all[part].unsqueeze(axis)
        if self.sweep.with_total:
            place = self.candidates.own_in(tile)
            if nothing is not None:
                gradient.masked_fill_(nothing, 0)
            if place is not None:
                gradient[place] = 0
        return gradient

    def _on_negatives(self, tile: Tile, values: Tensor, parts: list[tuple[_Gradients, slice, int]]) -> Tensor:
        """Sum over sides of ``on_negatives * exp(values - log_sum)``, in scratch memory."""
        out = self.products.scratch("terms", tile)
        if self._may_look:
            top = values.max().clamp(min=LOWEST)
            shifts = [top - side.log_sum[part] for side, part, _ in parts]
            if all(float(shift.max()) < LARGEST_SHIFT for shift in shifts):
                factors = [
                    (side.on_negatives[part] * shift.exp()).unsqueeze(axis)
                    for (side, part, axis), shift in zip(parts, shifts)
                ]
                return torch.sub(values, top, out=out).exp_().mul_(sum(factors))
        out.zero_()
        for side, part, axis in parts:
            shares = torch.exp(values - side.log_sum[part].unsqueeze(axis))
            out.addcmul_(shares, side.on_negatives[part].unsqueeze(axis).expand_as(shares))
        return out


def _take_positives(parts: list[tuple[_Side, slice, int]], logits: Tensor, positive: Tensor) -> None:
    values = logits.masked_fill(~positive, -torch.inf)
    for side, part, axis in parts:
        side.positives[part] = torch.logaddexp(side.positives[part], _log_sum_exp(values, axis))
        side.sum_positives[part] += torch.where(positive, logits, 0).sum(axis)
        side.num_positives[part] += positive.sum(axis)


def _log_sum_exp(values: Tensor, axis: int) -> Tensor:
    top = values.amax(axis).clamp(min=LOWEST)
    return torch.exp(values - top.unsqueeze(axis)).sum(axis).log_().add_(top)
