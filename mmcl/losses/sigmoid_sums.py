r"""Sums of pairwise logistic losses over every row, tile by tile, with their gradients formed on the way.

The gradient of a pair's loss needs nothing but its own logit, so one sweep over the tiles gives value and gradient:
three matrix products in all, none of them twice. What depends on a whole row (weights of hard negatives, the
correction for false ones) must be known beforehand, as coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.losses.candidates import Candidates
from mmcl.losses.tiles import Tile, TileProducts, computing_dtype, tile_shape, tiles

LARGEST_EXPONENT = 80.0  # exp of it is finite in float32


@dataclass(frozen=True)
class Terms:
    """What a row's pairs count, each (b,) in the logits' dtype, without gradient.

    A positive costs ``of_positives * softplus(-z) + false_share * softplus(z)``, a negative
    ``of_negatives * softplus(z)`` times its weight ``exp(hardness * z - log_weight)``.

    Attributes:
        of_positives, of_negatives: factors.
        false_share: what a positive counts as a negative, usually below zero; None: nothing.
        log_weight: log-mean-exp of hardness * z over the row's negatives; None without hardness.
        hardness: beta.
        smoothing: share of each target that is a coin's toss.
    """

    of_positives: Tensor
    of_negatives: Tensor
    false_share: Tensor | None = None
    log_weight: Tensor | None = None
    hardness: float = 0.0
    smoothing: float = 0.0


def sigmoid_sums(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    candidates: Candidates,
    terms: Terms,
    *,
    tile_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """() the cost of all pairs, with gradient; (b,) the cost of each row's pairs, without.

    Args:
        x: (b, d) rows.
        y: (n, d) columns.
        scale: ().
        bias: () or None.
        candidates: what each column is to each row; of the windows, the rows' alone is looked at.
        terms: what each pair costs.
        tile_size: see ``tile_shape``.
    """
    wants = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in (x, y, scale, bias))
    return _Sums.apply(x, y, scale, bias, candidates, terms, tile_size, wants)


class _Sums(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        candidates: Candidates,
        terms: Terms,
        tile_size: int | None,
        wants: bool,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            sums, gradients = _sweep(x, y, scale, bias, candidates, terms, tile_size, wants)
        if wants:
            ctx.dtypes = [x.dtype, y.dtype, scale.dtype, None if bias is None else bias.dtype]
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(sums)
        return sums.sum(), sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found = [
            None if dtype is None else (value * factor).to(dtype) for value, dtype in zip(ctx.saved_tensors, ctx.dtypes)
        ]
        return (*found, None, None, None, None)


def _sweep(
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    candidates: Candidates,
    terms: Terms,
    tile_size: int | None,
    wants: bool,
) -> tuple[Tensor, list[Tensor]]:
    """(b,) sums, and where they are wanted the gradients of their sum on x, y, scale and bias."""
    dtype = computing_dtype(x, y)
    number = None if bias is None else bias.detach().to(dtype).reshape(())
    products = TileProducts(x.detach(), y.detach(), scale.detach().to(dtype).reshape(()), number)
    sums, on_bias = x.new_zeros(len(x), dtype=dtype), x.new_zeros((), dtype=dtype)
    on_rows, on_columns = products.zeros() if wants else (None, None)
    if candidates.own is not None:
        own = products.paired(candidates.own)
        costs, slopes = _positive(own, terms, slice(None))
        sums += costs
        if wants:
            products.add_paired_gradients(candidates.own, slopes, on_rows, on_columns)
            on_bias += slopes.sum()
    shape = tile_shape(len(x), len(y), device=x.device, tile_size=tile_size)
    for tile in tiles(len(x), len(y), shape):
        slopes = _one_tile(tile, products, candidates, terms, sums)
        if wants:
            products.add_gradients(tile, slopes, on_rows, on_columns if y.requires_grad else None)
            on_bias += slopes.sum()
    if not wants:
        return sums, []
    on_scale = products.row_products(on_rows).reshape(scale.shape)
    found = [on_rows.mul_(products.scale), on_columns, on_scale]
    return sums, [*found, on_bias.reshape(bias.shape if bias is not None else ())]


def _positive(logits: Tensor, terms: Terms, rows: slice) -> tuple[Tensor, Tensor]:
    """Costs and slopes of positives; the row is the first axis."""

    def shaped(values: Tensor) -> Tensor:
        return values[rows].reshape(-1, *[1] * (logits.ndim - 1))

    half = terms.smoothing / 2
    factor = shaped(terms.of_positives)
    costs = factor * (-F.logsigmoid(logits) + half * logits)
    slopes = factor * (half - torch.sigmoid(-logits))
    if terms.false_share is not None:
        share = shaped(terms.false_share)
        costs = costs + share * (-F.logsigmoid(-logits) - half * logits)
        slopes = slopes + share * (torch.sigmoid(logits) - half)
    return costs, slopes


def _one_tile(tile: Tile, products: TileProducts, candidates: Candidates, terms: Terms, sums: Tensor) -> Tensor:
    """Add a tile's costs, own pairs apart, to ``sums``; its slopes, in scratch memory."""
    logits = products.logits(tile)
    place, positive, nothing = (
        candidates.own_in(tile),
        candidates.other_positives(tile),
        candidates.left_out(tile),
    )
    of_positives = None if positive is None else _positive(logits, terms, tile.rows)
    gone = nothing if positive is None or nothing is None else nothing & ~positive
    if candidates.row_window is not None:
        outside = candidates.row_window.outside(logits, tile.rows, of_rows=True)
        gone = outside if gone is None else gone | outside
    apart = positive if gone is None or positive is None else gone | positive
    apart = gone if apart is None else apart
    costs, slopes = _negative(logits, terms, tile, products)
    for values in (costs, slopes):
        if place is not None:
            values[place] = 0
        if apart is not None:
            values.masked_fill_(apart, 0)
    if of_positives is not None:
        kept = positive.clone()
        if place is not None:
            kept[place] = False
        costs += torch.where(kept, of_positives[0], 0)
        slopes += torch.where(kept, of_positives[1], 0)
    sums[tile.rows] += costs.sum(1)
    return slopes


def _negative(logits: Tensor, terms: Terms, tile: Tile, products: TileProducts) -> tuple[Tensor, Tensor]:
    """Costs and slopes of a tile as if all were negatives."""
    factor = terms.of_negatives[tile.rows][:, None]
    if terms.log_weight is not None:
        factor = factor * torch.exp(terms.hardness * logits - terms.log_weight[tile.rows][:, None])
    costs, slopes = products.scratch("costs", tile), products.scratch("slopes", tile)
    if logits.device.type == "cpu" and float(logits.max()) < LARGEST_EXPONENT:
        odds = torch.exp(logits, out=slopes)
        torch.log1p(odds, out=costs)
        odds.div_(odds + 1)
    else:
        costs.copy_(F.logsigmoid(-logits)).neg_()
        torch.sigmoid(logits, out=slopes)
    if terms.smoothing:
        costs.sub_(logits, alpha=terms.smoothing / 2)
        slopes.sub_(terms.smoothing / 2)
    return costs.mul_(factor), slopes.mul_(factor)
