"""Which captions belong to which groups, where a caption may belong to several."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from mmcl.data.dataset import ImageTextDataset

KIND_ROWS = 20  # rows of a group above which it is a kind of thing, such as a class


@dataclass(frozen=True)
class CaptionGroups:
    """The distinct captions of a data set with the rows and groups that have them.

    Attributes:
        captions: m distinct captions, in order of appearance.
        groups: (n,) int64, the group of each row.
        starts: (n + 1,) int64; row i has the captions ``caption_of[starts[i]:starts[i + 1]]``.
        caption_of: (o,) int64 in [0, m).
        row_of: (o,) int64: the row of each entry of ``caption_of``.
        first_group: (m,) int64: one group of each caption.
        further: (p, 2) int64, (caption, group), for all other groups of captions that have several.
    """

    captions: list[str]
    groups: np.ndarray
    starts: np.ndarray
    caption_of: np.ndarray
    row_of: np.ndarray
    first_group: np.ndarray
    further: np.ndarray

    def shared(self) -> np.ndarray:
        """(q, 2) int64, (row, caption): the captions of rows that belong to several groups; rows ascending."""
        several = np.zeros(len(self.captions), dtype=bool)
        several[self.further[:, 0]] = True
        chosen = several[self.caption_of]
        return np.stack([self.row_of[chosen], self.caption_of[chosen]], axis=1)


def caption_groups(dataset: ImageTextDataset) -> CaptionGroups:
    """Number the captions of a data set and find the groups of each. Groups are those of ``dataset.group_ids()``."""
    column = dataset.table["texts"].combine_chunks()
    encoded = column.flatten().dictionary_encode()
    caption_of = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    groups = dataset.group_ids().numpy()
    row_of = np.repeat(np.arange(len(dataset)), lengths)
    span = int(groups.max(initial=0)) + 1
    caption, group = np.divmod(np.unique(caption_of * span + groups[row_of]), span)  # by caption, then group
    is_first = np.concatenate([[True], caption[1:] != caption[:-1]]) if len(caption) else np.zeros(0, dtype=bool)
    return CaptionGroups(
        captions=encoded.dictionary.to_pylist(),
        groups=groups,
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        caption_of=caption_of,
        row_of=row_of,
        first_group=group[is_first],
        further=np.stack([caption[~is_first], group[~is_first]], axis=1),
    )


def twin_ids(dataset: ImageTextDataset) -> np.ndarray:
    """(n,) int64: equal for rows that share a group or a caption, directly or through other rows."""
    found = caption_groups(dataset)
    labels = np.arange(int(found.groups.max(initial=-1)) + 1)
    caption, group = found.further[:, 0], found.further[:, 1]
    while True:
        before = labels.copy()
        # Every caption gives all of its groups the lowest of their labels.
        lowest = labels[found.first_group]
        np.minimum.at(lowest, caption, labels[group])
        np.minimum.at(labels, group, lowest[caption])
        np.minimum.at(labels, found.first_group, lowest)
        labels = labels[labels]
        if np.array_equal(labels, before):
            return labels[found.groups]


def stated_group_ids(dataset: ImageTextDataset) -> Tensor:
    """(n,) int64: equal for rows that the data put into one ``group``; a row without one stands alone.

    So do the rows of a group of more than ``KIND_ROWS``, which is a kind of thing, such as a class, and not one thing.
    Unlike ``dataset.group_ids()``, rows without a group do not belong together for having the same captions: one of two
    images called "a mug" may be one.
    """
    rows = pc.binary_join_element_wise("r", pa.array(np.arange(len(dataset))).cast(pa.string()), "\x1f")
    if dataset.has("group"):
        groups = dataset.table["group"].cast(pa.string()).combine_chunks()
        counted = pc.value_counts(groups)
        kinds = counted.field("values").filter(pc.greater(counted.field("counts"), KIND_ROWS))
        things = pc.if_else(pc.is_in(groups, value_set=kinds), pa.scalar(None, pa.string()), groups)
        rows = pc.coalesce(pc.binary_join_element_wise("g", things, "\x1f"), rows)
    return torch.from_numpy(rows.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64))


def first_caption_ids(dataset: ImageTextDataset) -> Tensor:
    """(n,) int64: equal for rows with the same first caption."""
    texts = dataset.table["texts"]
    first = pc.list_element(texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts, 0)
    return torch.from_numpy(first.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64))
