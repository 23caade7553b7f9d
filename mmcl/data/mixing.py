"""What a data set of several sources knows of them: their names, weights and how batches mix them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset

SOURCE_COLUMN = "source"


@dataclass(frozen=True)
class Mixture:
    """How the sources of a data set are drawn from; which source a row is of stands in the column ``source``.

    Attributes:
        weights: source -> its part of an epoch, against the others'; None: by the number of its rows.
        mixing: "stratified" (every batch holds each source near its part), "per_source" (a batch is of one source
            alone), or None: all rows in random order.
    """

    weights: dict[str, float] | None
    mixing: str | None

    @property
    def is_plain(self) -> bool:
        """Whether rows come as they come, as in any other data set."""
        return self.weights is None and self.mixing is None


def sources_of(dataset: ImageTextDataset, mixture: Mixture) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The sources that a data set still has rows of.

    Returns:
        (n,) int64 number of each row's source in [0, k), the k names, and (k,) float64 their weights.
    """
    column = dataset.table[SOURCE_COLUMN].cast(pa.string())
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = column.dictionary_encode()
    ids = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    names = encoded.dictionary.to_pylist()
    if mixture.weights is None:
        return ids, names, np.bincount(ids, minlength=len(names)).astype(np.float64)
    return ids, names, np.array([mixture.weights[name] for name in names])
