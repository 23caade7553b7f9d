"""What a training split is like as a whole: its captions, its other columns, its labels."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import SCHEMA, ImageTextDataset

COLUMN_ROWS = 5000


def distinct_captions(train: ImageTextDataset) -> int:
    """How many different captions there are."""
    return len(pc.unique(train.table["texts"].combine_chunks().flatten()))


def text_columns(train: ImageTextDataset) -> dict[str, int]:
    """Columns of text that mmcl gives no meaning to, whose values hold blanks: name -> distinct values."""
    part = train.table.slice(0, COLUMN_ROWS)
    found = {}
    for name in part.column_names:
        if name in SCHEMA or not (pa.types.is_string(part[name].type) or pa.types.is_large_string(part[name].type)):
            continue
        values = pc.drop_null(pc.unique(part[name]))
        if len(values) and pc.mean(pc.count_substring(values, " ")).as_py() >= 1:
            found[name] = len(values)
    return found
