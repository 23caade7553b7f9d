"""Images that are held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import DataError, ShapeError


class ArrayImages:
    """An image store over one array in memory; ``select`` shares it.

    Args:
        pixels: uint8 (n, h, w, 3), RGB.
        name: what the images are called in messages.
        rows: int64 (m,), the images of the array that belong to the store, in order; None for all.

    Raises:
        ShapeError: the array has another shape or dtype.
    """

    def __init__(self, pixels: np.ndarray, *, name: str, rows: np.ndarray | None = None) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3:
            raise ShapeError(f"pixels must be uint8 (n, h, w, 3), got {pixels.dtype} {pixels.shape}")
        self.pixels = pixels
        self.name = name
        self.rows = np.arange(len(pixels), dtype=np.int64) if rows is None else np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Tensor:
        """Image ``row``, uint8 (3, h, w).

        Raises:
            DataError: there is no such row.
        """
        return self.read_many([row])[0]

    def read_many(self, rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
        """The images of these rows, uint8 (b, 3, h, w); (0, 3, h, w) for none.

        Raises:
            DataError: there is no such row.
        """
        index = np.asarray(rows, dtype=np.int64)
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise DataError(f"{self.name} has rows 0 to {len(self) - 1}, got {index.min()} to {index.max()}")
        pixels = self.pixels[self.rows[index]].transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(pixels))

    def describe(self, row: int) -> str:
        """Which image this is, for messages."""
        return f"{self.name}, image {int(self.rows[row])}"

    def select(self, rows: np.ndarray) -> ArrayImages:
        """A store of these rows alone, in this order, over the same array."""
        return ArrayImages(self.pixels, name=self.name, rows=self.rows[np.asarray(rows, dtype=np.int64)])

    def fingerprint(self) -> str:
        """A hash of the pixels in their order."""
        digest = hashlib.blake2b(repr(self.pixels.shape[1:]).encode(), digest_size=16)
        for row in self.rows:
            digest.update(np.ascontiguousarray(self.pixels[row]))
        return digest.hexdigest()
