r"""Row statistics on a GPU as fused Triton kernels: what ``row_statistics`` computes tile by tile, without the tiles.

A program holds some rows and streams all columns past them, keeping a running log-sum-exp; the backward computes the
logits again and adds up the gradients of the rows it holds (FlashAttention's shape, Dao et al. 2022, arXiv:2205.14135;
for contrastive losses Cheng et al. 2024, arXiv:2410.17243). The statistics of the columns, and their gradients, are the
same with the sides exchanged. That is two matrix products forward and four backward where tiles need one and three, but
logits never leave the chip. Nothing is added atomically: results repeat bit for bit on one device.

Products of float32 inputs are exact float32 ("ieee": without tensor cores, and slow for it) where
``torch.set_float32_matmul_precision`` was left at "highest", else "tf32x3": TF32 three times, with errors near
float32's. ``MMCL_FUSED_PRECISION`` names one of the two, or "tf32", whatever PyTorch is set to. Half-precision inputs
are multiplied as they are and added up in float32; logits are never rounded. Gradients on logits are, to the inputs'
precision, after they were brought near 1, so that float16 does not lose the small ones.

``MMCL_FUSED=0`` turns the kernels off, and so does a ``tile_size``; exact float32 products are left to tiles, unless
``MMCL_FUSED_PRECISION`` is set. Where they cannot be compiled a warning says so, once, and tiles take over. They are
tested on a CPU through Triton's interpreter, and compiled there for GPUs of compute capability 8.0 and 9.0; their speed
on a GPU has not been measured yet, and their block sizes are chosen by arithmetic.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import MmclError
from mmcl.logs import get_logger
from mmcl.losses import fused_kernels, fused_launch
from mmcl.losses.candidates import Candidates, Window
from mmcl.losses.fused_kernels import STATISTICS_FIELDS
from mmcl.losses.fused_launch import Blocks, Plan, parts, shares
from mmcl.losses.row_statistics import NUM_STATISTICS, NUM_WITH_GRADIENT, Sweep, _Gradients, _Side, _Work

log = get_logger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_IDS = 4  # ids a row that are compared each with each
# A window's ends are logits that another product found. The last bits of the same logit differ here, and a row's one
# hardest negative must not be lost by them: ends are wider by this much of a score (32 units in float32's last place).
SLACK = 4e-6
LINEAR = slice(4, 8)  # those of GRADIENT_FIELDS that gradients are proportional to


def supports(x: Tensor, y: Tensor, candidates: Candidates, sweep: Sweep) -> bool:
    """Whether the kernels can do what is asked for: all but float64, tiles of a given size and many ids a row."""
    if x.dtype not in DTYPES or y.dtype not in DTYPES or sweep.tile_size is not None:
        return False
    ids = candidates.row_ids, candidates.column_ids
    if ids[0] is not None and not ids[0].shape[1] == ids[1].shape[1] <= MOST_IDS:
        return False
    # Windows hold logits of PyTorch's products. Where either side's are TF32's they lie too far beside the other's.
    has_windows = candidates.row_window is not None or candidates.column_window is not None
    exact = torch.get_float32_matmul_precision() == "highest" and fused_launch.float32_precision() != "tf32"
    return exact or not has_windows or torch.float32 not in (x.dtype, y.dtype)


_given_up: list[str] = []  # why the kernels are no longer tried in this process


def is_wanted(x: Tensor, y: Tensor, candidates: Candidates, sweep: Sweep) -> bool:
    """Whether row statistics are to be computed by the kernels: on a GPU, with Triton, unless ``MMCL_FUSED=0``.

    Exact products of float32 have no tensor cores, and the kernels make twice as many as tiles do: those are left to
    tiles, unless ``MMCL_FUSED_PRECISION`` asks for them.
    """
    slow = x.dtype == torch.float32 and fused_launch.float32_precision() == "ieee"
    if slow and "MMCL_FUSED_PRECISION" not in os.environ:
        return False
    return (
        x.is_cuda
        and fused_kernels.TRITON_IS_INSTALLED
        and os.environ.get("MMCL_FUSED", "1") != "0"
        and not _given_up
        and supports(x, y, candidates, sweep)
    )


def collected_work(
    x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, candidates: Candidates, sweep: Sweep
) -> FusedWork | _Work:
    """One call's work with its statistics collected: by the kernels, or by tiles where they cannot be compiled."""
    work = FusedWork(x, y, scale, bias, candidates, sweep)
    try:
        work.collect()
    except Exception as error:  # whatever a compiler, an assembler or a driver raises
        _give_up(error)
        work = _Work(x, y, scale, bias, candidates, sweep)
        work.collect()
    return work


def _give_up(error: Exception) -> None:
    """Say once that tiles take over from here on; what is no fault of the kernels is raised again."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MmclError):
        raise error
    reason = f"{type(error).__name__}: {str(error).strip()[:500]}"
    if not _given_up:
        log.warning(
            "the fused kernels do not run on this device (%s); losses are computed tile by tile, just as exactly. "
            "MMCL_FUSED=0 leaves the kernels out from the start",
            reason,
        )
    _given_up.append(reason)


class FusedWork:
    """One call's pass, forward and backward: what ``_Work`` is for tiles.

    Args:
        x: (b, d) float32 / bf16 / fp16 rows; y (n, d) columns; scale (); bias () or None: as in ``row_statistics``.
        candidates: what each column is to each row.
        sweep: how; ``tile_size`` is not looked at.
    """

    def __init__(
        self, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None, candidates: Candidates, sweep: Sweep
    ) -> None:
        numbers = (None if number is None else number.detach().float().reshape(()) for number in (scale, bias))
        self._given = (x.detach(), y.detach(), *numbers)
        dtype = x.dtype if x.dtype == y.dtype else torch.float32
        self.x, self.y = (values.to(dtype).contiguous() for values in self._given[:2])
        self.candidates, self.sweep = candidates, sweep
        # The same rows on both sides in the same part: one kernel finds the gradients of both.
        self.is_shared = sweep.symmetric and x.data_ptr() == y.data_ptr() and x.requires_grad and y.requires_grad
        self.columns_learn = y.requires_grad
        self.own: Tensor | None = None
        self.own_scores: Tensor | None = None
        self.sides: list[_Side] = []
        positive_groups = candidates.row_groups is not None and candidates.groups_are == "positives"
        self._constants = {
            "scale_ptr": self._given[2],
            "bias_ptr": self._given[3],
            "hardness": float(sweep.hardness),
            "dim": x.shape[1],
            "groups_are_positives": positive_groups,
            "num_ids": 0 if candidates.row_ids is None else candidates.row_ids.shape[1],
            "has_positives": positive_groups or candidates.positives is not None,
            "is_hard": sweep.hardness != 0,
            "with_total": sweep.with_total,
            # The interpreter takes the bits of bf16 for integers in a product.
            "widen": fused_launch.is_interpreted() and dtype == torch.bfloat16,
            "precision": fused_launch.float32_precision() if dtype == torch.float32 else "ieee",
        }
        extras = ("has_positives", "is_hard", "with_total")
        has_windows = candidates.row_window is not None or candidates.column_window is not None
        plain = not has_windows and not any(self._constants[name] for name in extras)
        self._blocks = {"dtype": dtype, "precision": self._constants["precision"], "plain": plain}

    def collect(self) -> None:
        """Fill the sides' statistics."""
        self.sides = [self._statistics(of_rows=True)]
        if self.sweep.both:
            self.sides.append(self._statistics(of_rows=False))

    def spread(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients on the statistics -> on x, y, scale and bias; zeros for a y that needs none."""
        try:
            return self._spread(gradients)
        except Exception as error:  # the backward's kernel is another, and may fail where the forward's ran
            _give_up(error)
            work = _Work(*self._given, self.candidates, self.sweep)
            work.sides, work.rows, work.own = self.sides, self.sides[0], self.own
            work.columns_learn = self.columns_learn
            return work.spread(gradients)

    def _spread(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        starts = range(0, len(gradients), NUM_STATISTICS)
        on_sides = [
            _Gradients(side, gradients[start : start + NUM_WITH_GRADIENT], with_total=self.sweep.with_total)
            for start, side in zip(starts, self.sides)
        ]
        packed = [_packed(on_side) for on_side in on_sides]
        on_own = None if self.own is None else self._on_own(on_sides)
        unit = _unit([values[LINEAR] for values in packed] + ([] if on_own is None else [on_own]))
        for values in packed:
            values[LINEAR] /= unit
        on_scale = 0 if on_own is None else (on_own * self.own_scores).sum()
        on_own = None if on_own is None else on_own / unit
        of_rows, of_columns = packed[0], packed[1] if self.sweep.both else packed[0] if self.is_shared else None
        on_rows, products = self._gradient(of_rows, of_columns, on_own, unit, of_rows=True)
        on_columns = self.y.new_zeros(()).expand(self.y.shape)
        if self.columns_learn and not self.is_shared:
            on_own = None if on_own is None else self._of_columns(on_own)
            on_columns, _ = self._gradient(of_columns, of_rows, on_own, unit, of_rows=False)
        on_scale = on_scale + products.sum() * unit
        on_bias = sum(on_side.on_bias() for on_side in on_sides)
        return on_rows, on_columns, on_scale / 2 if self.is_shared else on_scale, on_bias

    def _on_own(self, on_sides: list[_Gradients]) -> Tensor:
        """(b,): gradients on the own pairs' logits, from both sides' statistics."""
        found = on_sides[0].on_own(self.own)
        if self.sweep.both:
            of_columns = on_sides[1].on_own(self.candidates.own_of_columns(self.own))
            return found + self.candidates.own_of_rows(of_columns)
        return found + self.candidates.own_of_rows(found) if self.is_shared else found

    def _of_columns(self, on_own: Tensor) -> Tensor:
        """(b,) gradients on the logits of the rows' own pairs -> (n,) of the columns'; 0 for one that is nobody's."""
        own, count = self.candidates.own, len(self.y)
        if isinstance(own, Tensor):
            return on_own.new_zeros(count).index_copy_(0, own, on_own)
        return F.pad(on_own, (own.start, count - own.start - len(on_own)))

    # -- the kernels ---------------------------------------------------------------------------------------------

    def _statistics(self, *, of_rows: bool) -> _Side:
        """Statistics of the rows, or of the columns."""
        operands, window, candidates = self._operands(of_rows=of_rows), self._window(of_rows=of_rows), self.candidates
        num_held, num_streamed = operands["num_held"], operands["num_streamed"]
        left_out = (candidates.itself, candidates.row_groups, candidates.row_ids, candidates.positives, window)
        with_count = any(reason is not None for reason in left_out)

        def plan(blocks: Blocks) -> Plan:
            programs = parts(num_held, blocks.held)
            num_shares, size = shares("statistics", programs, num_streamed, blocks.streamed, self.x.device)
            out = self.x.new_empty((num_shares, len(STATISTICS_FIELDS), num_held), dtype=torch.float32)
            return (programs, num_shares), {"out_ptr": out, "split_size": size}

        choices = fused_launch.statistics_blocks(**self._blocks)
        operands |= {
            "low_ptr": None if window is None else window.low,
            "high_ptr": None if window is None else window.high,
            "with_count": with_count,
            "with_own": candidates.own is not None and of_rows,
            "num_fields": len(STATISTICS_FIELDS),
        }
        out = fused_launch.run(fused_kernels.statistics_kernel, choices, self.x.device, plan, operands)["out_ptr"]
        found = dict(zip(STATISTICS_FIELDS, out.unbind(1)))
        if operands["with_own"]:
            self.own_scores = found["own_score"][0].clone()
            _, _, scale, bias = self._given
            self.own = scale * self.own_scores if bias is None else scale * self.own_scores + bias
        own = self.own if of_rows or self.own is None else candidates.own_of_columns(self.own)
        side = _Side(own, num_held, window=window, like=out.new_empty(0), hardness=self.sweep.hardness)
        self._fill(side, found, num_streamed=num_streamed, with_count=with_count)
        return side

    def _fill(self, side: _Side, found: dict[str, Tensor], *, num_streamed: int, with_count: bool) -> None:
        """The shares' findings together; a side begins with its own pairs."""
        side.negatives = found["negatives"].logsumexp(0)
        if side.weights is not None:
            side.weights = found["weights"].logsumexp(0)
        side.num_negatives = found["num_negatives"].sum(0) if with_count else num_streamed - side.num_positives
        if self.sweep.with_total:
            side.num_all = found["num_all"].sum(0) + side.num_positives
            side.total = found["total"].sum(0) + (0 if self.own is None else side.positives)
        if self._constants["has_positives"]:
            side.positives = torch.logaddexp(side.positives, found["positives"].logsumexp(0))
            side.sum_positives = side.sum_positives + found["sum_positives"].sum(0)
            side.num_positives = side.num_positives + found["num_positives"].sum(0)

    def _gradient(
        self,
        held_side: Tensor | None,
        streamed_side: Tensor | None,
        on_own: Tensor | None,
        unit: Tensor,
        *,
        of_rows: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """(b, d) or (n, d) gradient of one side's embeddings; of the rows also (shares, b) that sum to the scale's."""
        operands, given = self._operands(of_rows=of_rows), self._given[0 if of_rows else 1]
        num_held, num_streamed, dim = operands["num_held"], operands["num_streamed"], operands["dim"]
        candidates = self.candidates
        has_windows = candidates.row_window is not None, candidates.column_window is not None
        has_windows = (has_windows[0], has_windows[0]) if self.is_shared else has_windows

        def plan(blocks: Blocks) -> Plan:
            grid = parts(num_held, blocks.held), parts(dim, blocks.output)
            num_shares, size = shares("gradients", grid[0] * grid[1], num_streamed, blocks.streamed, self.x.device)
            dtype = given.dtype if num_shares == 1 else torch.float32
            out = self.x.new_empty((num_shares, num_held, dim), dtype=dtype)
            products = self.x.new_empty((num_shares, num_held), dtype=torch.float32) if of_rows else None
            return (*grid, num_shares), {"out_ptr": out, "products_ptr": products, "split_size": size}

        choices = fused_launch.gradient_blocks(dim, **self._blocks)
        operands |= {
            "held_side_ptr": held_side,
            "streamed_side_ptr": streamed_side,
            "on_own_ptr": on_own,
            "unit_ptr": unit,
            "has_held_window": has_windows[0 if of_rows else 1],
            "has_streamed_window": has_windows[1 if of_rows else 0],
        }
        found = fused_launch.run(fused_kernels.gradient_kernel, choices, self.x.device, plan, operands)
        out = found["out_ptr"]
        return out[0] if len(out) == 1 else out.sum(0).to(given.dtype), found["products_ptr"]

    # -- what the kernels are given --------------------------------------------------------------------------------

    def _operands(self, *, of_rows: bool) -> dict[str, Any]:
        """What both kernels need; ``of_rows``: rows are held and columns streamed, or the other way round."""
        candidates = self.candidates
        held = (self.x, candidates.row_groups, candidates.row_ids)
        streamed = (self.y, candidates.column_groups, candidates.column_ids)
        if not of_rows:
            held, streamed = streamed, held
        mask = None if candidates.positives is None else candidates.positives.view(torch.uint8)
        strides = (0, 0) if mask is None else mask.stride() if of_rows else mask.stride()[::-1]
        named = {"held_ptr": held[0], "streamed_ptr": streamed[0]}
        for name, mine, its in (("groups", held[1], streamed[1]), ("ids", held[2], streamed[2])):
            named[f"held_{name}_ptr"] = None if mine is None else mine.contiguous()
            named[f"streamed_{name}_ptr"] = None if its is None else its.contiguous()
        return {
            **named,
            **self._constants,
            "own_ptr": self._matches(candidates.own, of_rows=of_rows),
            "itself_ptr": self._matches(candidates.itself, of_rows=of_rows),
            "positives_ptr": mask,
            "positives_held_stride": strides[0],
            "positives_streamed_stride": strides[1],
            "num_held": len(held[0]),
            "num_streamed": len(streamed[0]),
        }

    def _matches(self, columns: slice | Tensor | None, *, of_rows: bool) -> Tensor | None:
        """int32 column of every row, or row of every column; -1 where there is none."""
        if columns is None:
            return None
        numbers = torch.arange(len(self.x), dtype=torch.int32, device=self.x.device)
        if of_rows:
            return columns.to(torch.int32) if isinstance(columns, Tensor) else numbers + columns.start
        found = torch.full((len(self.y),), -1, dtype=torch.int32, device=self.x.device)
        found[columns] = numbers
        return found

    def _window(self, *, of_rows: bool) -> Window | None:
        """A side's window with room for another product's last bits."""
        window = self.candidates.row_window if of_rows else self.candidates.column_window
        if window is None:
            return None
        ends = []
        for end, sign in ((window.low, -1), (window.high, 1)):
            if end is not None:
                room = SLACK * (self._given[2] + end.abs())
                end = torch.where(end.isinf(), end, end + sign * room).contiguous()
            ends.append(end)
        return Window(*ends)


def _packed(on_side: _Gradients) -> Tensor:
    """(len(GRADIENT_FIELDS), rows) float32: what the kernel needs of one side."""
    zeros = torch.zeros_like(on_side.log_sum)
    window = on_side.side.window or Window()
    fields = (
        on_side.log_sum,
        on_side.log_positives,
        zeros - torch.inf if window.low is None else window.low,
        zeros + torch.inf if window.high is None else window.high,
        on_side.on_negatives,
        on_side.on_positives + on_side.on_spread,
        on_side.on_each,
        zeros if on_side.on_all is None else on_side.on_all,
    )
    return torch.stack([values.float() for values in fields])


def _unit(values: list[Tensor]) -> Tensor:
    """() the power of two next to the largest absolute value: divided by it, gradients on logits are near 1."""
    largest = torch.stack([v.abs().amax() for v in values if v.numel()] or [values[0].new_ones(())]).amax()
    largest = torch.nan_to_num(largest, nan=1.0, posinf=1.0)  # what is not finite stays so without our help
    exponent = torch.frexp(largest).exponent.clamp(-100, 100)
    return torch.ldexp(torch.ones_like(largest), exponent)
