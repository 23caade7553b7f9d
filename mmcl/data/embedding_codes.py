"""Embeddings in fewer bits: float16, int8, one bit a value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmcl.errors import ConfigError, ShapeError

KINDS = ("float32", "float16", "int8", "binary")
_LEVELS = 255


@dataclass(frozen=True)
class EmbeddingCodes:
    """Rows of embeddings, coded.

    Attributes:
        kind: of ``KINDS``.
        values: (n, d) float32, float16 or int8; binary: (n, ceil(d / 8)) uint8, eight signs a byte, the first highest.
        dim: d.
        low, high: (d,) float32, the range that int8 divides into 255 steps; None for the others.
    """

    kind: str
    values: np.ndarray
    dim: int
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def bytes_per_row(self) -> int:
        """Bytes that one embedding takes."""
        return self.values.shape[1] * self.values.itemsize


def encode_rows(
    embeddings: np.ndarray, kind: str, *, ranges: tuple[np.ndarray, np.ndarray] | None = None
) -> EmbeddingCodes:
    """Code embeddings.

    int8: each dimension's range is cut into 255 steps, value v becomes ``round((v - low) / step) - 128`` and values
    outside the range its ends. binary: bit i is set where value i is above 0.

    Args:
        embeddings: (n, d) floating, finite.
        kind: ``"float32"``, ``"float16"``, ``"int8"`` or ``"binary"``.
        ranges: int8: (low, high), (d,) each, as ``value_ranges`` finds them on other rows; None: those of these rows.

    Raises:
        ConfigError: an unknown kind.
        ShapeError: embeddings of another shape, or that are not finite; int8 of no rows without ranges.

    Example:
        >>> codes = encode_rows(np.eye(2, dtype=np.float32), "binary")
        >>> codes.values.tolist(), codes.bytes_per_row
        ([[128], [64]], 1)
    """
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; want one of {', '.join(KINDS)}")
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f" or not np.isfinite(embeddings).all():
        raise ShapeError(
            f"embeddings have shape {embeddings.shape} and type {embeddings.dtype}; want finite numbers (rows, values)"
        )
    dim = embeddings.shape[1]
    if kind in ("float32", "float16"):
        return EmbeddingCodes(kind, embeddings.astype(kind), dim)
    if kind == "binary":
        return EmbeddingCodes(kind, np.packbits(embeddings > 0, axis=1), dim)
    low, high = value_ranges(embeddings) if ranges is None else ranges
    scaled = (np.clip(embeddings, low, high) - low) / _steps(low, high)
    return EmbeddingCodes(kind, (np.rint(scaled) - 128).astype(np.int8), dim, low, high)


def decode_rows(codes: EmbeddingCodes) -> np.ndarray:
    """Codes back to (n, d) float32; int8 within half a step, binary as -1 and 1, neither of unit length."""
    if codes.kind == "binary":
        return np.unpackbits(codes.values, axis=1, count=codes.dim).astype(np.float32) * 2 - 1
    if codes.kind == "int8":
        return (codes.values.astype(np.float32) + 128) * _steps(codes.low, codes.high) + codes.low
    return codes.values.astype(np.float32)


def value_ranges(embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and greatest value of each dimension, (d,) float32 each.

    Raises:
        ShapeError: there are no rows.
    """
    if not len(embeddings):
        raise ShapeError("there are no embeddings to take the ranges of; give some, or ranges")
    return embeddings.min(axis=0).astype(np.float32), embeddings.max(axis=0).astype(np.float32)


def _steps(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The width of a step; 1 where all values are the same, which then all have the first code."""
    width = (high - low) / _LEVELS
    return np.where(width > 0, width, 1).astype(np.float32)
