"""The Triton kernels behind ``fused``: one reads off the statistics of rows, one leads gradients back to them.

Each program holds a block of rows of one side ("held") and streams the rows of the other ("streamed") past it, block
after block; a program writes to rows of its own alone, so that nothing is added atomically and results repeat bit for
bit. The columns' part is the same kernel with the sides exchanged. Nothing of size (b, n) is ever written.

Without Triton the module can be imported, and its kernels cannot be called.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

TRITON_IS_INSTALLED = importlib.util.find_spec("triton") is not None
if TRITON_IS_INSTALLED:
    triton, tl = importlib.import_module("triton"), importlib.import_module("triton.language")
    jit = triton.jit
else:

    def jit(function: Callable[..., None]) -> Callable[..., None]:
        """Leave a kernel as it is, where nothing can compile it."""
        return function


# What a program knows of a row's part in the gradient, in this order in memory: see ``_on_logits``.
GRADIENT_FIELDS = ("log_sum", "log_positives", "low", "high", "on_negatives", "on_positives", "on_each", "on_all")
# What a program finds out of a row.
STATISTICS_FIELDS = (
    "negatives", "weights", "positives", "sum_positives", "num_positives", "total", "num_all", "num_negatives",
    "own_score",
)  # fmt: skip


@jit
def _scores(
    held_ptr, streamed_ptr, held, streamed, num_held, num_streamed,
    dim: tl.constexpr, widen: tl.constexpr, precision: tl.constexpr,
    block_held: tl.constexpr, block_streamed: tl.constexpr, block_inner: tl.constexpr,
):  # fmt: skip
    """(held, streamed) float32 products; those of rows beyond the last are 0."""
    scores = tl.zeros((block_held, block_streamed), tl.float32)
    held_rows, streamed_rows = held.to(tl.int64)[:, None] * dim, streamed.to(tl.int64)[None, :] * dim
    for start in range(0, dim, block_inner):
        inner = start + tl.arange(0, block_inner)
        a = tl.load(
            held_ptr + held_rows + inner[None, :], mask=(held < num_held)[:, None] & (inner < dim)[None, :], other=0.0
        )
        b = tl.load(
            streamed_ptr + streamed_rows + inner[:, None],
            mask=(streamed < num_streamed)[None, :] & (inner < dim)[:, None],
            other=0.0,
        )
        if widen:
            a, b = a.to(tl.float32), b.to(tl.float32)
        scores = tl.dot(a, b, scores, input_precision=precision)
    return scores


@jit
def _logits(scores, scale_ptr, bias_ptr):
    """scale * scores + bias."""
    logits = scores * tl.load(scale_ptr)
    if bias_ptr is not None:
        logits += tl.load(bias_ptr)
    return logits


@jit
def _roles(
    own_ptr, itself_ptr, held_groups_ptr, streamed_groups_ptr, held_ids_ptr, streamed_ids_ptr,
    positives_ptr, positives_held_stride, positives_streamed_stride,
    held, streamed, num_held, end,
    groups_are_positives: tl.constexpr, num_ids: tl.constexpr,
    block_held: tl.constexpr, block_streamed: tl.constexpr,
):  # fmt: skip
    """Three (held, streamed) masks, own pairs in none: what is not left out; and of that positives and negatives."""
    row, column = held[:, None], streamed[None, :]
    row_is_there, column_is_there = row < num_held, column < end
    kept = row_is_there & column_is_there
    if own_ptr is not None:
        kept = kept & (tl.load(own_ptr + row, mask=row_is_there, other=-1) != column)
    if itself_ptr is not None:
        kept = kept & (tl.load(itself_ptr + row, mask=row_is_there, other=-1) != column)
    positive = tl.full((block_held, block_streamed), 0, tl.int1)
    left_out = tl.full((block_held, block_streamed), 0, tl.int1)
    if held_groups_ptr is not None:
        its_group = tl.load(held_groups_ptr + row, mask=row_is_there, other=0)
        same = kept & (its_group == tl.load(streamed_groups_ptr + column, mask=column_is_there, other=0))
        if groups_are_positives:
            positive = same
        else:
            left_out = same
    if positives_ptr is not None:
        place = row.to(tl.int64) * positives_held_stride + column.to(tl.int64) * positives_streamed_stride
        positive = positive | (tl.load(positives_ptr + place, mask=kept, other=0) != 0)
    for one in tl.static_range(num_ids):
        mine = tl.load(held_ids_ptr + row.to(tl.int64) * num_ids + one, mask=row_is_there, other=-1)
        for other in tl.static_range(num_ids):
            its_place = streamed_ids_ptr + column.to(tl.int64) * num_ids + other
            its = tl.load(its_place, mask=column_is_there, other=-1)
            left_out = left_out | ((mine == its) & (mine >= 0))
    kept = kept & (positive | (left_out == 0))
    return kept, positive, kept & (positive == 0)


@jit
def _add_log_sum(top, total, values):
    """Running maximum and sum of exponentials below it, with a block of values more; -inf counts for nothing."""
    new_top = tl.maximum(top, tl.max(values, 1))
    return new_top, total * tl.exp(top - new_top) + tl.sum(tl.exp(values - new_top[:, None]), 1)


@jit
def _log_sum(top, total):
    """Logarithm of what ``_add_log_sum`` has added up; NaN stays NaN."""
    return tl.where(total == 0.0, float("-inf"), top + tl.log(tl.where(total == 0.0, 1.0, total)))


@jit
def _own_scores(
    held_ptr, streamed_ptr, own_ptr, held, num_held,
    dim: tl.constexpr, block_held: tl.constexpr, block_inner: tl.constexpr,
):  # fmt: skip
    """(held,) product of each row with its own pair, in float32 whatever the inputs are."""
    is_there = held < num_held
    own_rows = tl.load(own_ptr + held, mask=is_there, other=0).to(tl.int64)[:, None] * dim
    held_rows = held.to(tl.int64)[:, None] * dim
    scores = tl.zeros((block_held,), tl.float32)
    for start in range(0, dim, block_inner):
        inner = start + tl.arange(0, block_inner)[None, :]
        mask = is_there[:, None] & (inner < dim)
        a = tl.load(held_ptr + held_rows + inner, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(streamed_ptr + own_rows + inner, mask=mask, other=0.0).to(tl.float32)
        scores += tl.sum(a * b, 1)
    return scores


@jit
def statistics_kernel(
    held_ptr, streamed_ptr, scale_ptr, bias_ptr,
    own_ptr, itself_ptr, held_groups_ptr, streamed_groups_ptr, held_ids_ptr, streamed_ids_ptr,
    positives_ptr, positives_held_stride, positives_streamed_stride,
    low_ptr, high_ptr, out_ptr, num_held, num_streamed, split_size, hardness,
    dim: tl.constexpr, groups_are_positives: tl.constexpr, num_ids: tl.constexpr, has_positives: tl.constexpr,
    is_hard: tl.constexpr, with_total: tl.constexpr, with_count: tl.constexpr, with_own: tl.constexpr,
    num_fields: tl.constexpr, widen: tl.constexpr, precision: tl.constexpr,
    block_held: tl.constexpr, block_streamed: tl.constexpr, block_inner: tl.constexpr,
):  # fmt: skip
    """Statistics of the held rows over a share of the streamed ones; grid (blocks of held rows, shares).

    ``out`` is (shares, num_fields, num_held) float32, the fields those of STATISTICS_FIELDS. A field is written where
    it is wanted; the positives' and the totals are without the own pair, which the caller adds.
    """
    held = tl.program_id(0) * block_held + tl.arange(0, block_held)
    is_there = held < num_held
    first = tl.program_id(1) * split_size
    end = tl.minimum(first + split_size, num_streamed)
    zeros = tl.zeros((block_held,), tl.float32)
    # The lowest top is no -inf, whose difference with another -inf is NaN.
    top_negatives, top_weights, top_positives = zeros - 1e30, zeros - 1e30, zeros - 1e30
    negatives, weights, positives = zeros, zeros, zeros
    sum_positives, num_positives, total, num_all, num_negatives = zeros, zeros, zeros, zeros, zeros
    low, high = zeros, zeros
    if low_ptr is not None:
        low = tl.load(low_ptr + held, mask=is_there, other=0.0)
    if high_ptr is not None:
        high = tl.load(high_ptr + held, mask=is_there, other=0.0)
    for start in range(first, end, block_streamed):
        streamed = start + tl.arange(0, block_streamed)
        scores = _scores(
            held_ptr, streamed_ptr, held, streamed, num_held, end,
            dim, widen, precision, block_held, block_streamed, block_inner,
        )  # fmt: skip
        logits = _logits(scores, scale_ptr, bias_ptr)
        kept, positive, negative = _roles(
            own_ptr, itself_ptr, held_groups_ptr, streamed_groups_ptr, held_ids_ptr, streamed_ids_ptr,
            positives_ptr, positives_held_stride, positives_streamed_stride,
            held, streamed, num_held, end, groups_are_positives, num_ids, block_held, block_streamed,
        )  # fmt: skip
        if has_positives:
            top_positives, positives = _add_log_sum(top_positives, positives, tl.where(positive, logits, float("-inf")))
            sum_positives += tl.sum(tl.where(positive, logits, 0.0), 1)
            num_positives += tl.sum(positive.to(tl.float32), 1)
        if with_total:
            total += tl.sum(tl.where(kept, logits, 0.0), 1)
            num_all += tl.sum(kept.to(tl.float32), 1)
        if low_ptr is not None:
            negative = negative & ((logits < low[:, None]) == 0)
        if high_ptr is not None:
            negative = negative & ((logits > high[:, None]) == 0)
        if with_count:
            num_negatives += tl.sum(negative.to(tl.float32), 1)
        values = tl.where(negative, logits, float("-inf"))
        if is_hard:
            top_weights, weights = _add_log_sum(
                top_weights, weights, tl.where(negative, logits * hardness, float("-inf"))
            )
            values = values * (1.0 + hardness)
        top_negatives, negatives = _add_log_sum(top_negatives, negatives, values)
    out = out_ptr + tl.program_id(1).to(tl.int64) * num_fields * num_held + held
    tl.store(out, _log_sum(top_negatives, negatives), mask=is_there)
    if is_hard:
        tl.store(out + num_held, _log_sum(top_weights, weights), mask=is_there)
    if has_positives:
        tl.store(out + 2 * num_held, _log_sum(top_positives, positives), mask=is_there)
        tl.store(out + 3 * num_held, sum_positives, mask=is_there)
        tl.store(out + 4 * num_held, num_positives, mask=is_there)
    if with_total:
        tl.store(out + 5 * num_held, total, mask=is_there)
        tl.store(out + 6 * num_held, num_all, mask=is_there)
    if with_count:
        tl.store(out + 7 * num_held, num_negatives, mask=is_there)
    if with_own:
        own = _own_scores(held_ptr, streamed_ptr, own_ptr, held, num_held, dim, block_held, block_inner)
        tl.store(out + 8 * num_held, own, mask=is_there)


@jit
def _on_logits(
    side_ptr, index, count, logits, kept, positive, negative, hardness,
    has_positives: tl.constexpr, is_hard: tl.constexpr, with_total: tl.constexpr, has_window: tl.constexpr,
):  # fmt: skip
    """(held, streamed) gradient on the logits from one side's statistics; index is (held, 1) or (1, streamed).

    ``side`` is (len(GRADIENT_FIELDS), count): a negative gets exp(values - log_sum) on_negatives, a positive
    exp(logits - log_positives) on_positives - on_each, and all that is not left out on_all besides.
    """
    is_there = index < count
    log_sum = tl.load(side_ptr + index, mask=is_there, other=float("inf"))
    on_negatives = tl.load(side_ptr + 4 * count + index, mask=is_there, other=0.0)
    if has_window:
        low = tl.load(side_ptr + 2 * count + index, mask=is_there, other=0.0)
        high = tl.load(side_ptr + 3 * count + index, mask=is_there, other=0.0)
        negative = negative & ((logits < low) == 0) & ((logits > high) == 0)
    values = logits
    if is_hard:
        values = logits * (1.0 + hardness)
    gradient = tl.where(negative, tl.exp(values - log_sum) * on_negatives, 0.0)
    if has_positives:
        log_positives = tl.load(side_ptr + count + index, mask=is_there, other=float("inf"))
        on_positives = tl.load(side_ptr + 5 * count + index, mask=is_there, other=0.0)
        on_each = tl.load(side_ptr + 6 * count + index, mask=is_there, other=0.0)
        gradient += tl.where(positive, tl.exp(logits - log_positives) * on_positives - on_each, 0.0)
    if with_total:
        gradient += tl.where(kept, tl.load(side_ptr + 7 * count + index, mask=is_there, other=0.0), 0.0)
    return gradient


@jit
def gradient_kernel(
    held_ptr, streamed_ptr, scale_ptr, bias_ptr,
    own_ptr, itself_ptr, held_groups_ptr, streamed_groups_ptr, held_ids_ptr, streamed_ids_ptr,
    positives_ptr, positives_held_stride, positives_streamed_stride,
    held_side_ptr, streamed_side_ptr, on_own_ptr, unit_ptr, out_ptr, products_ptr,
    num_held, num_streamed, split_size, hardness,
    dim: tl.constexpr, groups_are_positives: tl.constexpr, num_ids: tl.constexpr, has_positives: tl.constexpr,
    is_hard: tl.constexpr, with_total: tl.constexpr, has_held_window: tl.constexpr, has_streamed_window: tl.constexpr,
    widen: tl.constexpr, precision: tl.constexpr,
    block_held: tl.constexpr, block_streamed: tl.constexpr, block_inner: tl.constexpr, block_output: tl.constexpr,
):  # fmt: skip
    """Gradients of the held rows over a share of the streamed ones; grid (blocks of held rows, blocks of d, shares).

    ``out`` is (shares, num_held, dim): scale * unit * gradient on the logits @ streamed, own pairs among them.
    ``products``, (shares, num_held) float32 or None, is each held row's sum of gradient times score, own pairs apart.
    """
    held = tl.program_id(0) * block_held + tl.arange(0, block_held)
    outer = tl.program_id(1) * block_output + tl.arange(0, block_output)
    share = tl.program_id(2)
    # The products are the same for every block of d; the first one's program writes them.
    writes_products = held < tl.where(tl.program_id(1) == 0, num_held, 0)
    first = share * split_size
    end = tl.minimum(first + split_size, num_streamed)
    is_there, outer_is_there = held < num_held, outer < dim
    place = held.to(tl.int64)[:, None] * dim + outer[None, :]
    mask = is_there[:, None] & outer_is_there[None, :]
    result, products = tl.zeros((block_held, block_output), tl.float32), tl.zeros((block_held,), tl.float32)
    if own_ptr is not None:
        own = tl.load(own_ptr + held, mask=is_there, other=-1).to(tl.int64)[:, None]
        its = own * dim + outer[None, :]
        mates = tl.load(streamed_ptr + its, mask=mask & (own >= 0), other=0.0).to(tl.float32)
        on_own = tl.load(on_own_ptr + held, mask=is_there, other=0.0)
        result += tl.where(share == 0, on_own, 0.0)[:, None] * mates
    for start in range(first, end, block_streamed):
        streamed = start + tl.arange(0, block_streamed)
        scores = _scores(
            held_ptr, streamed_ptr, held, streamed, num_held, end,
            dim, widen, precision, block_held, block_streamed, block_inner,
        )  # fmt: skip
        logits = _logits(scores, scale_ptr, bias_ptr)
        kept, positive, negative = _roles(
            own_ptr, itself_ptr, held_groups_ptr, streamed_groups_ptr, held_ids_ptr, streamed_ids_ptr,
            positives_ptr, positives_held_stride, positives_streamed_stride,
            held, streamed, num_held, end, groups_are_positives, num_ids, block_held, block_streamed,
        )  # fmt: skip
        gradient = tl.zeros((block_held, block_streamed), tl.float32)
        if held_side_ptr is not None:
            gradient += _on_logits(
                held_side_ptr, held[:, None], num_held, logits, kept, positive, negative, hardness,
                has_positives, is_hard, with_total, has_held_window,
            )  # fmt: skip
        if streamed_side_ptr is not None:
            gradient += _on_logits(
                streamed_side_ptr, streamed[None, :], num_streamed, logits, kept, positive, negative, hardness,
                has_positives, is_hard, with_total, has_streamed_window,
            )  # fmt: skip
        rows = tl.load(
            streamed_ptr + streamed.to(tl.int64)[:, None] * dim + outer[None, :],
            mask=(streamed < end)[:, None] & outer_is_there[None, :],
            other=0.0,
        )
        products += tl.sum(gradient * scores, 1)
        gradient = gradient.to(rows.dtype)
        if widen:
            gradient, rows = gradient.to(tl.float32), rows.to(tl.float32)
        result = tl.dot(gradient, rows, result, input_precision=precision)
    if products_ptr is not None:
        tl.store(products_ptr + share.to(tl.int64) * num_held + held, products, mask=writes_products)
    result *= tl.load(scale_ptr) * tl.load(unit_ptr)
    out = out_ptr + share.to(tl.int64) * num_held * dim + place
    tl.store(out, result.to(out_ptr.dtype.element_ty), mask=mask)
