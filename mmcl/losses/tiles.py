"""Logits tile by tile: how large tiles are, and the products that fill them and lead back from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmcl.errors import ShapeError

# Rows x columns of a tile. On a CPU it should stay near the caches (2 MiB of float32: the fastest of those tried on an
# AMD EPYC with 1 MiB of L2 a core); on a GPU a tile should be large enough to fill the device.
TILE = {"cpu": (512, 1024), "cuda": (4096, 4096)}
# Logits of the first tiles are kept for the backward instead of being computed again, up to so many bytes: a batch of
# 4096 pairs is then computed once, and a larger one saves a little.
# A bf16 product is rounded to bf16. Summed from this many pieces, each rounded while it is small, a logit has half the
# error, for a fifth more time (measured at d = 512).
PIECES = 4
SMALL = 1024 * 1024  # logits up to which half-precision inputs are widened
KEPT_BYTES = {"cpu": 128 * 2**20, "cuda": 1024 * 2**20}


class Tile(NamedTuple):
    """One block of the logits: rows and columns, as slices."""

    rows: slice
    columns: slice

    @property
    def shape(self) -> tuple[int, int]:
        """How many rows and columns it has."""
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def corner(self) -> tuple[int, int]:
        """Its first row and column: what tells tiles apart (slices cannot be hashed before Python 3.12)."""
        return self.rows.start, self.columns.start

    @property
    def on_diagonal(self) -> bool:
        """Whether its rows are its columns."""
        return self.rows == self.columns


def tile_shape(num_rows: int, num_columns: int, *, device: torch.device, tile_size: int | None) -> tuple[int, int]:
    """Rows and columns of a tile; ``tile_size`` sets both.

    Raises:
        ShapeError: tile_size is below 1.
    """
    if tile_size is not None and tile_size < 1:
        raise ShapeError(f"tile_size is {tile_size}; want at least 1, or None for the device's own")
    rows, columns = (tile_size, tile_size) if tile_size else TILE.get(device.type, TILE["cuda"])
    return min(rows, num_rows), min(columns, num_columns)


def tiles(num_rows: int, num_columns: int, shape: tuple[int, int], *, upper: bool = False) -> Iterator[Tile]:
    """All tiles, column block after column block; ``upper``: square ones on and above the diagonal alone."""
    height, width = (min(shape), min(shape)) if upper else shape
    for left in range(0, num_columns, width):
        for top in range(0, num_rows, height):
            if upper and top > left:
                break
            yield Tile(slice(top, min(top + height, num_rows)), slice(left, min(left + width, num_columns)))


def computing_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where all inputs are float64, float32 otherwise."""
    return torch.float64 if all(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _half_products(x: Tensor, y: Tensor) -> bool:
    """Whether products of these half-precision inputs are computed in half precision.

    They are on a GPU (with float32 accumulation and output), and on CPUs with bf16 instructions, where a product's
    output is rounded to bf16. Elsewhere half precision is slow, and for few logits no gain: inputs are widened first.
    """
    if x.dtype != y.dtype or x.dtype not in (torch.bfloat16, torch.float16) or len(x) * len(y) <= SMALL:
        return False
    if x.device.type == "cpu":
        return x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.device.type == "cuda"


class TileProducts:
    """The three products of a tile: its logits, and what a gradient on them is for rows and for columns.

    ``logits = scale * x @ y.T + bias`` in ``dtype``; with bf16 inputs on a CPU with bf16 instructions the ``PIECES``
    that a product is summed from are rounded to bf16.

    Args:
        x: (b, d) rows.
        y: (n, d) columns.
        scale: () in ``dtype``.
        bias: () in ``dtype``, or None.
    """

    def __init__(self, x: Tensor, y: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        self.dtype, self.scale, self.bias = scale.dtype, scale, bias
        self.half = _half_products(x, y)
        self._x, self._y = (x, y) if self.half else (x.to(self.dtype), y.to(self.dtype))
        # Scaling the rows beforehand saves a pass over every tile; in half precision it would round them.
        self._rows = self._x if self.half else self._x * scale
        self._memory: dict[str, Tensor] = {}

    def new_tile(self, tile: Tile) -> Tensor:
        """Uninitialised memory for a tile's logits."""
        return self._rows.new_empty(tile.shape, dtype=self.dtype)

    def scratch(self, purpose: str, tile: Tile, dtype: torch.dtype | None = None) -> Tensor:
        """Uninitialised memory of a tile's shape; the same again for the same purpose."""
        size = tile.shape[0] * tile.shape[1]
        if purpose not in self._memory or len(self._memory[purpose]) < size:
            self._memory[purpose] = self._rows.new_empty(size, dtype=dtype or self.dtype)
        return self._memory[purpose][:size].view(tile.shape)

    def zeros(self) -> tuple[Tensor, Tensor]:
        """Zeros for the gradients of rows and columns."""
        return torch.zeros_like(self._x, dtype=self.dtype), torch.zeros_like(self._y, dtype=self.dtype)

    def logits(self, tile: Tile, out: Tensor | None = None) -> Tensor:
        """(r, c) logits of a tile, written to ``out``, by default the scratch memory."""
        out = self.scratch("logits", tile) if out is None else out
        rows, columns = self._rows[tile.rows], self._y[tile.columns]
        if not self.half:
            torch.mm(rows, columns.T, out=out)
        elif rows.is_cuda:
            torch.mul(torch.mm(rows, columns.T, out_dtype=self.dtype), self.scale, out=out)
        else:
            narrow = self.scratch("half", tile, rows.dtype)
            width = -(-rows.shape[1] // PIECES)
            for start in range(0, rows.shape[1], width):
                piece = slice(start, start + width)
                torch.mm(rows[:, piece], columns[:, piece].T, out=narrow)
                out.copy_(narrow) if start == 0 else out.add_(narrow)
            out.mul_(self.scale)
        return out if self.bias is None else out.add_(self.bias)

    def add_gradients(self, tile: Tile, gradient: Tensor, rows: Tensor, columns: Tensor | None) -> None:
        """Add what ``gradient`` (r, c), on the logits, is for the rows divided by the scale, and for the columns.

        Args:
            tile: where it stands.
            gradient: on the tile's logits.
            rows: (b, d); gains ``gradient @ y`` (the caller multiplies by the scale at the end).
            columns: (n, d); gains ``scale * gradient.T @ x``. None: columns that need no gradient.
        """
        x, y = self._rows[tile.rows], self._y[tile.columns]
        if not self.half:
            rows[tile.rows].addmm_(gradient, y)
            if columns is not None:
                columns[tile.columns].addmm_(gradient.T, x)
            return
        narrow = self.scratch("half", tile, x.dtype).copy_(gradient)
        rows[tile.rows].add_(narrow @ y)
        if columns is not None:
            columns[tile.columns].add_((narrow.T @ x).to(self.dtype).mul_(self.scale))

    def paired(self, own: slice | Tensor) -> Tensor:
        """(b,) logit of every row with its own column: those of a slice, or those numbered."""
        logits = self.scale * torch.linalg.vecdot(self._x.to(self.dtype), self._y[own].to(self.dtype))
        return logits if self.bias is None else logits + self.bias

    def add_paired_gradients(self, own: slice | Tensor, gradient: Tensor, rows: Tensor, columns: Tensor) -> None:
        """``add_gradients`` for the pairs of rows and their own columns; gradient (b,)."""
        rows.addcmul_(gradient[:, None], self._y[own].to(self.dtype))
        scaled = self._x.to(self.dtype) * self.scale if self.half else self._rows
        if isinstance(own, slice):
            columns[own].addcmul_(gradient[:, None], scaled)
        else:
            columns.index_add_(0, own, scaled * gradient[:, None])

    def row_products(self, raw: Tensor) -> Tensor:
        """() sum over rows of <raw_i, x_i>: with raw = gradient @ y, the gradient of the scale."""
        return torch.linalg.vecdot(raw, self._x.to(self.dtype)).sum()
