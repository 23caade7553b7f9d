"""Which of a source's columns is which of mmcl's."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.errors import ConfigError, DataError

# The names each column is known by, the first that is there counts; `columns` overrules them.
ALIASES: dict[str, tuple[str, ...]] = {
    "image": ("image", "file_name", "filename", "filepath", "path", "image_path"),
    "text": ("text", "texts", "caption", "captions"),
    "label": ("label",),
    "group": ("group",),
    "domain": ("domain",),
    "negatives": ("negatives",),
    "tags": ("tags",),
    "id": ("id",),
    "split": ("split",),
    "foils": ("foils",),
}


def check_column_names(columns: Mapping[str, str]) -> None:
    """Refuse renamings of columns that mmcl does not know.

    Raises:
        ConfigError: names the unknown key and the nearest known one.
    """
    for name in columns:
        if name not in ALIASES:
            near = difflib.get_close_matches(name, ALIASES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"columns: unknown name {name!r}; known are {', '.join(ALIASES)}{hint}")


def resolve_columns(
    table: pa.Table, columns: Mapping[str, str], *, source: str, need_image: bool = True
) -> dict[str, str]:
    """Canonical name -> the source's name, for every column that the source has.

    Args:
        table: the source's rows.
        columns: what the user said, canonical -> own name.
        source: where the rows come from, for messages.
        need_image: whether a table without an image column is an error.

    Raises:
        DataError: a named column is missing, or there is none for text (or image); lists those there are.
        ConfigError: ``columns`` has an unknown key.
    """
    check_column_names(columns)
    found = {}
    for name, aliases in ALIASES.items():
        if name == "image" and not need_image:
            continue
        wanted = columns.get(name)
        if wanted is not None:
            if not _has(table, wanted):
                raise DataError(_missing(table, wanted, name, source))
            found[name] = wanted
        else:
            found |= next(({name: alias} for alias in aliases if alias in table.column_names), {})
    for name in ("text", "image") if need_image else ("text",):
        if name not in found:
            raise DataError(_missing(table, None, name, source))
    return found


def _missing(table: pa.Table, wanted: str | None, name: str, source: str) -> str:
    there = ", ".join(table.column_names) or "no columns"
    if wanted is None:
        tried = ", ".join(ALIASES[name])
        near = difflib.get_close_matches(name, table.column_names, n=1, cutoff=0.5)
        hint = f"data.columns.{name}={near[0]}" if near else f"data.columns.{name}=NAME"
        return f"{source} has no column for {name!r} (tried {tried}); it has {there}; name yours with {hint}"
    near = difflib.get_close_matches(wanted, table.column_names, n=1, cutoff=0.5)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    return f"{source} has no column {wanted!r} (asked for as {name!r}); it has {there}{hint}"


def _has(table: pa.Table, name: str) -> bool:
    if name in table.column_names:
        return True
    head, *fields = name.split(".")
    if head not in table.column_names:
        return False
    kind = table.schema.field(head).type
    for field in fields:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            return False
        kind = kind.field(field).type
    return True


def take_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column, or by dots a field of a struct column (``i18n.de``)."""
    if name in table.column_names:
        return table[name]
    head, *fields = name.split(".")
    return pc.struct_field(table[head], fields)
