"""From a data set's columns to what a format can hold and give back: names that do not clash, types that it knows."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.sources.columns import ALIASES
from mmcl.errors import DataError

Tables = Mapping[str | None, pa.Table]


class Columns(NamedTuple):
    """What is written beside the images.

    Attributes:
        tables: split -> its rows under the names they are written with; the captions are ``text``.
        renamed: a data set's column -> the name it had to take.
        changed: a data set's column -> what became of values that the format does not know.
    """

    tables: dict[str | None, pa.Table]
    renamed: dict[str, str]
    changed: dict[str, str]


def prepare_columns(tables: Tables, *, image_column: str | None, split_column: bool, as_json: bool) -> Columns:
    """The tables as they are written.

    ``texts`` becomes ``text``: a string where every row of every split has one caption, else a list. A column whose
    name the format needs for itself (``text``, the image column and the names that are looked for before it) becomes
    ``original_NAME``.

    Args:
        tables: split -> the data set's table.
        image_column: what the format calls the image; None where images need no column.
        split_column: whether a column ``split`` with the split's name is added.
        as_json: whether values have to pass through JSON.

    Raises:
        DataError: there is a column ``negative_rows``, which would not survive.
    """
    names = list(dict.fromkeys(name for table in tables.values() for name in table.column_names))
    if "negative_rows" in names:
        raise DataError("negative_rows are numbers of rows and cannot be stored; leave them out, and join them anew")
    taken = {"text"} if image_column is None else {"text", *_names_up_to(image_column)}
    if split_column and any(not _says(table, split) for split, table in tables.items()):
        taken.add("split")
    renamed: dict[str, str] = {}
    for name in names:
        if name in taken:
            renamed[name] = _free(f"original_{name}", {*names, *renamed.values()})
    single = all(_has_single_captions(table["texts"]) for table in tables.values())
    built = {split: _rename(table, renamed, single) for split, table in tables.items()}
    if split_column:
        built = {split: _with_split(table, split) for split, table in built.items()}
    changed: dict[str, str] = {}
    if as_json:
        built = {split: _for_json(table, changed) for split, table in built.items()}
        own = {new: old for old, new in renamed.items()}
        changed = {own.get(name, name): what for name, what in changed.items()}
    return Columns(built, renamed, changed)


def same_types(tables: Tables) -> dict[str | None, pa.Table]:
    """The tables with the same columns of the same types, where they have such; what one lacks is null in it.

    Raises:
        DataError: one column has types that have no common one.
    """
    plain = {split: _without_dictionaries(table) for split, table in tables.items()}
    try:
        schema = pa.unify_schemas([table.schema for table in plain.values()], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"the splits differ in their columns' types: {error}; convert them one by one") from error
    return {split: _cast(table, schema) for split, table in plain.items()}


def keeps_in_json(tables: Tables) -> bool:
    """Whether JSON gives back every value of every column as it is."""
    columns = [column for table in tables.values() for column in table.columns]
    return all(_json_knows(column) and not _holds_nan(column) for column in columns)


def _names_up_to(image_column: str) -> tuple[str, ...]:
    aliases = ALIASES["image"]
    return aliases[: aliases.index(image_column) + 1]


def _says(table: pa.Table, split: str | None) -> bool:
    return "split" not in table.column_names or set(table["split"].to_pylist()) <= {split}


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _has_single_captions(texts: pa.ChunkedArray) -> bool:
    if not pc.all(pc.equal(pc.list_value_length(texts), 1)).as_py():
        return False
    # A reader takes a text in brackets for a list of texts; as the only one of a list it is itself.
    return not pc.any(pc.starts_with(pc.list_flatten(texts), "[")).as_py()


def _rename(table: pa.Table, renamed: Mapping[str, str], single: bool) -> pa.Table:
    columns = {}
    for name in table.column_names:
        if name == "texts":
            columns["text"] = pc.list_flatten(table[name]) if single else table[name]
        else:
            columns[renamed.get(name, name)] = table[name]
    return pa.table(columns)


def _with_split(table: pa.Table, split: str | None) -> pa.Table:
    if "split" in table.column_names:
        return table
    return table.append_column("split", pa.array([split] * len(table), pa.string()))


def _without_dictionaries(table: pa.Table) -> pa.Table:
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table[field.name].cast(field.type.value_type))
    return table.replace_schema_metadata(None)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    there = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in there else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def _json_knows(column: pa.ChunkedArray) -> bool:
    """Whether a reader of JSON makes the same of every value; whole numbers beyond 63 bits come back as text."""
    if column.type == pa.uint64() and (pc.max(column).as_py() or 0) >= 2**63:
        return False
    return _type_in_json(column.type)


def _type_in_json(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _type_in_json(kind.value_type)
    if pa.types.is_struct(kind) or (pa.types.is_nested(kind) and not pa.types.is_map(kind)):
        return all(_type_in_json(kind.field(place).type) for place in range(kind.num_fields))
    known = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return any(is_known(kind) for is_known in (*known, pa.types.is_boolean, pa.types.is_null))


def _holds_nan(column: pa.ChunkedArray | pa.Array) -> bool:
    """Whether a float in it, at any depth, is no finite number."""
    kind = column.type
    if pa.types.is_floating(kind):
        return not pc.all(pc.fill_null(pc.is_finite(column), True), min_count=0).as_py()
    if pa.types.is_struct(kind):
        return any(_holds_nan(pc.struct_field(column, [place])) for place in range(kind.num_fields))
    if pa.types.is_nested(kind) and not pa.types.is_map(kind):
        return _holds_nan(pc.list_flatten(column))
    return False


def _for_json(table: pa.Table, changed: dict[str, str]) -> pa.Table:
    """The table with what JSON does not know as text; ``changed`` is told."""
    for place, name in enumerate(table.column_names):
        column = table[name]
        convert: Callable[[pa.ChunkedArray], pa.Array]
        if not _json_knows(column):
            convert, what = _as_text, f"{column.type}, written as text"
        elif _holds_nan(column):
            convert, what = _finite, "numbers that are not finite, written as null"
        else:
            continue
        changed[name] = what
        table = table.set_column(place, name, convert(column))
    return table


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if pa.types.is_nested(kind):
        values = (value if value is None else json.dumps(value, default=_text) for value in column.to_pylist())
    else:
        values = (value if value is None else _text(value) for value in column.to_pylist())
    return pa.array(list(values), pa.string())


def _text(value: Any) -> str:
    """Bytes as base64; other values as Python writes them, dates and times in ISO format."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _finite(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([_without_nan(value) for value in column.to_pylist()], column.type)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return value
