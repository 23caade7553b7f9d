"""What the `datasets` library says of columns (features), and columns as mmcl takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.sources.columns import ALIASES
from mmcl.errors import DataError


def image_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    """The column of images: the one that the user names, else one of a usual name, else the only one.

    Args:
        features: name -> feature of ``datasets``.
        wanted: the user's name of it, or None.
        source: the data set's name, for messages.

    Raises:
        DataError: there is none, or several and none named.
    """
    from datasets import Image

    images = [
        name
        for name, feature in features.items()
        if isinstance(feature, Image)
        or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
        or getattr(feature, "dtype", "") in {"binary", "large_binary"}
    ]
    if wanted in features:
        return wanted
    named = [name for name in ALIASES["image"] if name in images]
    if named or len(images) == 1:
        return (named or images)[0]
    problem = f"has no column {wanted!r}" if wanted else "has several columns of images" if images else "has no images"
    raise DataError(
        f"{source} {problem}; it has {', '.join(f'{name} ({_kind(kind)})' for name, kind in features.items())}; "
        f"name the image column with data.columns.image"
    )


def _kind(feature: Any) -> str:
    return getattr(feature, "dtype", None) or type(feature).__name__


def is_heavy(feature: Any) -> bool:
    """Whether it holds media or raw bytes, alone or in lists and structs: they would be copied into memory."""
    if isinstance(feature, dict):
        return any(is_heavy(inner) for inner in feature.values())
    if isinstance(feature, list | tuple):
        return any(is_heavy(inner) for inner in feature)
    if getattr(feature, "feature", None) is not None:  # List, LargeList, Sequence
        return is_heavy(feature.feature)
    media = type(feature).__name__ in {"Image", "Audio", "Video", "Pdf", "Nifti"}
    return media or getattr(feature, "dtype", "") in {"binary", "large_binary"}


def plain_table(table: pa.Table, features: Mapping[str, Any], *, columns: Mapping[str, str]) -> pa.Table:
    """The columns of a data set as a table: class labels by name, lists of structs open to dotted names.

    A class label below 0, which ``datasets`` means as missing, is null. A list of structs that the user reaches into
    (``data.columns.text=sentences.raw``) becomes a struct of lists.

    Args:
        table: the columns, images left out.
        features: name -> feature, of these columns and others.
        columns: the user's column names.
    """
    from datasets import ClassLabel

    reached = {name.partition(".")[0] for name in columns.values() if "." in name}
    for index, name in enumerate(table.column_names):
        feature = features.get(name)
        if isinstance(feature, ClassLabel) and pa.types.is_integer(table.schema.field(name).type):
            table = table.set_column(index, name, _names_of(table[name], feature.names))
        elif name in reached and _holds_structs(table.schema.field(name).type):
            table = table.set_column(index, name, _struct_of_lists(table[name].combine_chunks()))
    return table


def _names_of(codes: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    known = pc.and_(pc.greater_equal(codes, 0), pc.less(codes, len(names)))
    return pc.take(pa.array(names, pa.string()), pc.if_else(known, codes, None).cast(pa.int64()))


def _holds_structs(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type)


def _struct_of_lists(lists: pa.ListArray | pa.LargeListArray) -> pa.StructArray:
    structs = lists.flatten()
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
    ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths).cast(pa.int64())])
    fields = {
        field.name: pa.LargeListArray.from_arrays(ends, pc.struct_field(structs, field.name)).cast(pa.list_(field.type))
        for field in structs.type
    }
    return pa.StructArray.from_arrays(list(fields.values()), list(fields))
