"""The rows of a `datasets.Dataset`: columns as a table, images kept encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmcl.data.images.dataset_rows import DatasetImages
from mmcl.data.sources.columns import guess_column
from mmcl.data.sources.hub.features import image_column, is_heavy, plain_table
from mmcl.data.sources.rows import RawRows


def rows_of_dataset(
    dataset: Any, *, source: str, root: Path = Path(), columns: Mapping[str, str] | None = None
) -> RawRows:
    """The rows of a ``datasets.Dataset``; class labels by name.

    Images are those of a column of images or bytes, memory-mapped; or files, or base64, where the column holds text.

    Args:
        dataset: the data set.
        source: its name, for messages.
        root: where paths inside it start.
        columns: the user's column names; ``image`` names the image column, dots reach into structs.

    Raises:
        DataError: no column of images, or several and none named.
    """
    from datasets import Image

    def locate(rows: Sequence[int]) -> list[str]:
        return [f"{source}:row {row}" for row in rows]

    columns = columns or {}
    schema = dataset.features.arrow_schema
    name = columns.get("image") or guess_column(schema, "image", source=source)
    if name in schema.names and _is_text(schema.field(name).type):
        table = plain_table(dataset.with_format("arrow")[:], dataset.features, columns=columns)
        return RawRows(table, source, locate, root=root)
    name = image_column(dataset.features, name, source)
    if not isinstance(dataset.features[name], Image) or dataset.features[name].decode:
        dataset = dataset.cast_column(name, Image(decode=False))
    others = [key for key, feature in dataset.features.items() if key != name and not is_heavy(feature)]
    table = dataset.select_columns(others).with_format("arrow")[:] if others else pa.table({})
    table = plain_table(table, dataset.features, columns=columns)
    images = DatasetImages(dataset.select_columns([name]), name, source=source, root=root)
    return RawRows(table, source, locate, images=images, root=root)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
