"""What two splits have in common: captions and groups, letter for letter."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import ImageTextDataset


def count_leaks(train: ImageTextDataset, judged: ImageTextDataset) -> dict[str, int]:
    """How many rows of ``judged`` have a caption, or a group, that training rows have too, letter for letter.

    Args:
        train: what is learnt from.
        judged: what is judged on.

    Returns:
        "captions", "groups" and "either" -> rows.

    Example:
        >>> from mmcl.data import load
        >>> count_leaks(load("shapes?train=40:train"), load("shapes?test=40:test"))
        {'captions': 0, 'groups': 0, 'either': 0}
    """
    seen, own = (dataset.table["texts"].combine_chunks() for dataset in (train, judged))
    lengths = own.value_lengths().to_numpy(zero_copy_only=False)
    known = pc.is_in(own.flatten(), value_set=pc.unique(seen.flatten())).to_numpy(zero_copy_only=False)
    captions = np.zeros(len(judged), dtype=bool)
    captions[np.repeat(np.arange(len(judged)), lengths)[known]] = True
    groups = np.zeros(len(judged), dtype=bool)
    if train.has("group") and judged.has("group"):
        there = pc.drop_null(pc.unique(train.table["group"].cast(pa.string())))
        groups = pc.is_in(judged.table["group"].cast(pa.string()), value_set=there).to_numpy(zero_copy_only=False)
    return {"captions": int(captions.sum()), "groups": int(groups.sum()), "either": int((captions | groups).sum())}
