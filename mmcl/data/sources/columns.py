"""Which of a source's columns is which of mmcl's: as the user says, by mmcl's own names, or by names in common use."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.images.column import NO_DOWNLOADS
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

# The names each column is known by, in any case and with - or blanks for _; mmcl's own first. `columns` overrules them.
# They cover the metadata of `datasets`, flickr30k (image_name, comment), coco, laion (TEXT), img2dataset (jpg, key).
ALIASES: dict[str, tuple[str, ...]] = {
    "image": (
        "image", "file_name", "filename", "filepath", "file_path", "path", "image_path", "img_path", "image_file",
        "image_filename", "image_file_name", "image_name", "img_name", "img", "image_bytes", "image_base64", "jpg",
        "jpeg", "png", "webp",
    ),
    "text": ("text", "texts", "caption", "captions", "comment", "comments", "sentence", "sentences", "txt"),
    "label": ("label",),
    "group": ("group",),
    "domain": ("domain",),
    "negatives": ("negatives",),
    "tags": ("tags",),
    "id": ("id", "key", "uid"),
    "split": ("split",),
    "foils": ("foils",),
}  # fmt: skip

# Names that mmcl itself writes or documents first: they need no warning, and win over the other names.
_OWN = {"image": ("image", "file_name"), "text": ("text", "texts")}
_PLAIN = ("caption", "captions", "filename", "filepath", "path", "image_path", "key")
_URL_NAMES = ("url", "urls", "image_url", "img_url", "image_link", "link")
_LIKELY = {"text": ("title", "description", "alt_text", "top_caption", "prompt", "name")}


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

    What the user names counts; then mmcl's own name; then a name in common use (``ALIASES``, in any case), which is
    logged. Where there is a class and nothing like a caption, the class stands for the caption.

    Args:
        table: the source's rows.
        columns: what the user said, canonical -> own name.
        source: where the rows come from, for messages.
        need_image: whether a table without an image column is an error.

    Raises:
        DataError: a named column is missing; there is none for text (or image), or several that may be meant; lists
            those there are.
        ConfigError: ``columns`` has an unknown key.
    """
    check_column_names(columns)
    found, guessed = {}, {}
    for name in ALIASES:
        if name == "image" and not need_image:
            continue
        wanted = columns.get(name)
        if wanted is not None:
            if not _has(table, wanted):
                raise DataError(_missing(table, wanted, name, source))
            found[name] = wanted
            continue
        column = guess_column(table.schema, name, source=source, taken=columns.values())
        if column is not None:
            found[name] = column
            if column not in _OWN.get(name, (name,)):
                guessed[name] = column
    if "text" not in found and "label" in found and not _likely(table, "text"):
        log.info("%s has no captions: the classes in column %r are taken for them", source, found["label"])
        found["text"] = found["label"]
    for name in ("text", "image") if need_image else ("text",):
        if name not in found:
            raise DataError(_missing(table, None, name, source))
    if guessed:
        _say(source, tuple(guessed.items()))
    return found


def guess_column(schema: pa.Schema, name: str, *, source: str, taken: Collection[str] = ()) -> str | None:
    """The column that is meant by a canonical name where the user names none; None where no column has such a name.

    The canonical name itself comes first, in any case; then, of the other names, the one that holds images (for
    ``image``), mmcl's own second name, or the only one.

    Args:
        schema: the source's columns.
        name: a key of ``ALIASES``.
        source: where the columns come from, for the message.
        taken: columns that the user gave another meaning.

    Raises:
        DataError: several columns may be meant; lists them.
    """
    named = [column for column in schema.names if _plain(column) in ALIASES[name] and column not in taken]
    if name in named:
        return name
    narrowings = [
        [column for column in named if _plain(column) == name],
        [column for column in named if name == "image" and _holds_images(schema.field(column).type)],
        [column for column in named if column in _OWN.get(name, ())],
        named,
    ]
    candidates = next(filter(None, narrowings), [])
    if len(candidates) > 1:
        listed = ", ".join(map(repr, candidates))
        raise DataError(
            f"{source} has several columns that may be {name!r}: {listed}; say which with data.columns.{name}="
            f"{candidates[0]}"
        )
    return candidates[0] if candidates else None


def _plain(column: str) -> str:
    return column.strip().lower().replace("-", "_").replace(" ", "_")


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


@lru_cache(maxsize=1024)  # a table is opened once a split; it is said once
def _say(source: str, guessed: tuple[tuple[str, str], ...]) -> None:
    usual = all(column in (*_OWN.get(name, ()), *_PLAIN) for name, column in guessed)
    pairs = ", ".join(f"{column!r} as {name}" for name, column in guessed)
    level = logging.INFO if usual else logging.WARNING
    log.log(level, "%s: column %s; name others with data.columns", source, pairs)


def _likely(table: pa.Table, name: str) -> list[str]:
    """Columns that may be meant by a canonical name, but are not taken without being asked for."""
    return [column for column in table.column_names if _plain(column) in _LIKELY.get(name, ())]


def _missing(table: pa.Table, wanted: str | None, name: str, source: str) -> str:
    there = ", ".join(table.column_names) or "no columns"
    if wanted is not None:
        near = difflib.get_close_matches(wanted, table.column_names, n=1, cutoff=0.5)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        return f"{source} has no column {wanted!r} (asked for as {name!r}); it has {there}{hint}"
    urls = [column for column in table.column_names if _plain(column) in _URL_NAMES]
    if name == "image" and urls:
        return f"{source} has addresses of images (column {urls[0]!r}) and no images; {NO_DOWNLOADS}"
    near = _likely(table, name)
    near = near or difflib.get_close_matches(name, table.column_names, n=1, cutoff=0.5)
    hint = f"data.columns.{name}={near[0]}" if near else f"data.columns.{name}=NAME"
    tried = ", ".join(ALIASES[name])
    return f"{source} has no column for {name!r} (tried {tried}); it has {there}; name yours with {hint}"


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
