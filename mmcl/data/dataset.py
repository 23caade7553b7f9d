"""`ImageTextDataset`: the rows of one split, as every reader, trainer and evaluator sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.mixing import Mixture
from mmcl.errors import DataError

# The columns mmcl gives a meaning to; any other column is kept as it came.
SCHEMA = {
    "id": pa.string(),
    "texts": pa.list_(pa.string()),
    "label": pa.string(),
    "group": pa.string(),
    "domain": pa.string(),
    "tags": pa.list_(pa.string()),
    "negatives": pa.list_(pa.string()),
    "negative_rows": pa.list_(pa.int64()),
    "foils": pa.list_(pa.struct({"kind": pa.string(), "caption": pa.string(), "foil": pa.string()})),
}


class ImageStore(Protocol):
    """Where a data set's images are: read one by one, when they are needed."""

    def __len__(self) -> int: ...

    def read(self, row: int) -> Tensor:
        """Image ``row``, upright RGB, uint8 (3, h, w). Raises DataError when missing or unreadable."""
        ...

    def describe(self, row: int) -> str:
        """The file (and member or line) that image ``row`` comes from, for messages."""
        ...

    def select(self, rows: np.ndarray) -> ImageStore:
        """A store of these rows alone, in this order."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the images do (paths, sizes and times; or the pixels themselves)."""
        ...


class ImageTextDataset:
    """Images with their captions, label, group, domain and tags; one row an image, each with one caption or more.

    Args:
        images: where the images are, one a row.
        table: the columns; ``texts`` is wanted, the others of ``SCHEMA`` may be missing. Every row of ``texts`` holds
            at least one non-empty caption (readers drop other rows and list them in ``skipped``).
        name: the data set as a person would name it, such as ``"data/emoji:test"``; used in messages and results.
        skipped: rows that the reader dropped.
        mixture: how the sources of the rows are drawn from, where they come from several; None otherwise.

    Raises:
        DataError: images and table differ in length.
    """

    def __init__(
        self,
        images: ImageStore,
        table: pa.Table,
        *,
        name: str,
        skipped: Sequence[SkippedRow] = (),
        mixture: Mixture | None = None,
    ) -> None:
        if len(images) != table.num_rows:
            raise DataError(f"{name}: {len(images)} images against {table.num_rows} rows; each row needs one image")
        self.images = images
        self.table = table.combine_chunks()
        self.name = name
        self.skipped = list(skipped)
        self.mixture = mixture
        self._features_of: ImageTextDataset | None = None  # with the same images, and the captions they came with

    def __len__(self) -> int:
        return self.table.num_rows

    def __repr__(self) -> str:
        return f"ImageTextDataset({self.name!r}, rows={len(self)}, columns={self.table.column_names})"

    def has(self, column: str) -> bool:
        """Whether the column exists and holds at least one value."""
        return column in self.table.column_names and self.table[column].null_count < len(self)

    def column(self, name: str) -> list[Any]:
        """A whole column as Python values.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.table.column_names:
            raise DataError(
                f"{self.name} has no column {name!r} (it has {', '.join(self.table.column_names)}); "
                f"name yours with data.columns.{name}"
            )
        return self.table[name].to_pylist()

    def value(self, name: str, row: int) -> Any:
        """One cell; None where the column is missing."""
        return self.table[name][row].as_py() if name in self.table.column_names else None

    def texts(self, row: int) -> list[str]:
        """The captions of one row, at least one."""
        return self.table["texts"][row].as_py()

    def group_ids(self) -> Tensor:
        """(n,) int64: equal where rows belong together.

        Rows belong together when they share ``group``. A row without a group belongs with those that have exactly its
        captions: a repeated caption is no negative of itself. Identical (group, captions) therefore never stand
        against each other in a loss.
        """
        texts = pc.binary_join(self.table["texts"].combine_chunks(), "\x1f")
        keys = pc.binary_join_element_wise("t", texts, "\x1f")
        if self.has("group"):
            groups = self.table["group"].cast(pa.string())
            keys = pc.coalesce(pc.binary_join_element_wise("g", groups, "\x1f"), keys)
        if isinstance(keys, pa.ChunkedArray):
            keys = keys.combine_chunks()
        encoded = keys.dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        return torch.from_numpy(encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64))

    def select(self, rows: Sequence[int] | np.ndarray, *, name: str | None = None) -> ImageTextDataset:
        """The data set of these rows alone, in this order.

        ``negative_rows`` are renumbered with the rows; those that are not among them are left out.
        """
        index = np.asarray(rows, dtype=np.int64)
        table = self.table.take(pa.array(index))
        if "negative_rows" in table.column_names:
            place = table.column_names.index("negative_rows")
            renumbered = _renumber(table["negative_rows"].combine_chunks(), index, len(self))
            table = table.set_column(place, "negative_rows", renumbered)
        images, name = self.images.select(index), name or self.name
        return ImageTextDataset(images, table, name=name, skipped=self.skipped, mixture=self.mixture)

    def with_captions_of(self, rows: Sequence[int] | np.ndarray) -> ImageTextDataset:
        """The same images, each with the captions and tags of another row; its fingerprint stays, as the images do.

        Args:
            rows: (n,) int64, the row that each row takes them from.
        """
        table, taken = self.table, pa.array(np.asarray(rows, dtype=np.int64))
        for name in {"texts", "tags"} & {*table.column_names}:
            place = table.column_names.index(name)
            table = table.set_column(place, table.field(name), table[name].take(taken))
        other = ImageTextDataset(self.images, table, name=self.name, skipped=self.skipped, mixture=self.mixture)
        other._features_of = self
        return other

    def fingerprint(self) -> str:
        """A short hash of the images and captions: what caches of features are keyed by."""
        if self._features_of is not None:
            return self._features_of.fingerprint()
        digest = hashlib.sha256(self.images.fingerprint().encode())
        for texts in self.table["texts"].to_pylist():
            digest.update("\x1f".join(texts).encode())
            digest.update(b"\x1e")
        return digest.hexdigest()[:16]


def _renumber(lists: pa.ListArray, kept: np.ndarray, number: int) -> pa.ListArray:
    """Lists of row numbers in [0, number) as positions in ``kept`` (the first of each); other rows are left out."""
    new = np.full(number, -1, dtype=np.int64)
    new[kept[::-1]] = np.arange(len(kept))[::-1]
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    values = new[pc.list_flatten(lists).to_numpy(zero_copy_only=False)]
    kept_before = np.concatenate([[0], np.cumsum(values >= 0)])
    ends = kept_before[np.concatenate([[0], np.cumsum(lengths)])]
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values[values >= 0]))
