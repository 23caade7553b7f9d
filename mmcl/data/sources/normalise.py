"""From a source's own columns to mmcl's: names, types, captions without blanks, one row an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.batch import SkippedRow
from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.images.column import images_from_column
from mmcl.data.images.files import FileImages
from mmcl.data.sources.cells import as_lists, as_text
from mmcl.data.sources.columns import resolve_columns, take_column
from mmcl.data.sources.loose_images import class_text
from mmcl.data.sources.rows import RawRows
from mmcl.data.splits.names import canonical_split
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

_SCALARS = ("id", "label", "group", "domain", "split")
_LISTS = ("tags", "negatives", "foils")
_SHOWN_REASONS = 5
_SHOWN_PLACES = 3


def normalise(raw: RawRows, *, name: str, columns: Mapping[str, str] | None = None) -> ImageTextDataset:
    """Build the data set of a source's rows.

    Captions are trimmed and blank ones removed; a row without a caption or without an image is dropped and listed in
    ``skipped``. Where the classes are the captions (``text`` and ``label`` are one column), ``_`` and ``-`` in them
    become spaces, and the images of a class belong together. Rows that name the same image file, and agree in label,
    group and domain, become one row with all their captions: repeated, an image would be a negative of itself. Labels,
    groups, domains and ids become strings; the id of an image file is its path where no column gives one. Ids that name
    several rows are kept and warned of: rows are told apart by number, ids only name them to people and in files. Other
    columns are kept as they are.

    Args:
        raw: the rows.
        name: the data set's name, for messages.
        columns: canonical name -> the source's name (``{"text": "caption"}``); a dot reaches into a struct.

    Raises:
        DataError: a column is missing or of an impossible type, or no row is left; the message gives the first reasons.
        ConfigError: ``columns`` renames to a name that mmcl does not know.
    """
    if not len(raw):
        raise DataError(_nothing_left(name, len(raw.skipped), list(raw.skipped)))
    names = resolve_columns(raw.table, columns or {}, source=raw.source, need_image=raw.images is None)
    if names["text"] == names.get("label") and "group" not in (columns or {}):
        names["group"] = names["label"]  # equal captions are no negatives of one another
    images, reasons = raw.images, None
    if images is None:
        images, reasons = images_from_column(take_column(raw.table, names["image"]), root=raw.root, source=raw.source)
    texts = _captions(raw, names)
    reasons = _reasons(texts, reasons)
    kept = pc.is_null(reasons).to_numpy(zero_copy_only=False)
    skipped = [*raw.skipped, *_skipped_rows(raw, kept, reasons)]
    if not kept.any():
        raise DataError(_nothing_left(name, len(skipped), skipped))
    table, rows = _build_table(raw, names, texts, images), np.arange(len(raw))
    if not kept.all():
        rows = np.flatnonzero(kept)
        table, images = table.take(pa.array(rows)), images.select(rows)
        log.warning("%s: %d of %d rows cannot be used and are left out", name, len(skipped), len(skipped) + len(rows))
    elif skipped:
        log.warning("%s: %d of %d rows cannot be read and are left out", name, len(skipped), len(skipped) + len(rows))
    if isinstance(images, FileImages):
        table, images, first = _merge_repeated(table, images, name=name)
        rows = rows[first]
    if "id" in names:
        _tell_repeated_ids(table["id"], raw, rows, name=name)
    return ImageTextDataset(images, table, name=name, skipped=skipped)


def _tell_repeated_ids(ids: pa.ChunkedArray, raw: RawRows, rows: np.ndarray, *, name: str) -> None:
    """Warn of ids that name several rows; all rows are kept."""
    if len(pc.unique(ids.drop_null())) == len(ids) - ids.null_count:
        return
    counts = pc.value_counts(ids.drop_null())
    repeated = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    shown = []
    for entry in repeated.slice(0, _SHOWN_REASONS).to_pylist():
        there = np.flatnonzero(pc.fill_null(pc.equal(ids, entry["values"]), False).to_numpy(zero_copy_only=False))
        places = raw.locate(raw.row_numbers(rows[there[:_SHOWN_PLACES]]).tolist())
        more = f" and {len(there) - _SHOWN_PLACES} more" if len(there) > _SHOWN_PLACES else ""
        shown.append(f"{entry['values']!r} at {', '.join(places)}{more}")
    more = f"; and {len(repeated) - len(shown)} more ids" if len(repeated) > len(shown) else ""
    log.warning(
        "%s: %d ids name several rows (%s%s); all rows are kept, but files of vectors and results that name rows by "
        "their id cannot tell these apart",
        name, len(repeated), "; ".join(shown), more,
    )  # fmt: skip


def _captions(raw: RawRows, names: Mapping[str, str]) -> pa.ListArray:
    name = names["text"]
    cells, what = take_column(raw.table, name), f"{raw.source}: column {name!r}"
    kind = cells.type
    if pa.types.is_primitive(kind) and not pa.types.is_null(kind):
        raise DataError(
            f"{what} holds {kind} ({cells.drop_null()[0].as_py() if cells.null_count < len(cells) else None}, ...); "
            f"wanted captions, as text or lists of text: name their column with data.columns.text"
        )
    if name != names.get("label"):
        return as_lists(cells, what=what)
    return as_lists(pc.fill_null(class_text(as_text(cells)), ""), what=what)


def _reasons(texts: pa.ListArray, of_images: pa.ChunkedArray | None) -> pa.ChunkedArray:
    """(n,) strings: why a row cannot be used; null where it can."""
    has_text = pc.greater(pc.list_value_length(texts), 0)
    of_images = pa.scalar(None, pa.string()) if of_images is None else of_images
    return pc.if_else(has_text, of_images, "no caption")


def _build_table(raw: RawRows, names: Mapping[str, str], texts: pa.Array, images: Any) -> pa.Table:
    built: dict[str, Any] = {"texts": texts}
    for column in _SCALARS:
        if column in names:
            built[column] = as_text(take_column(raw.table, names[column]))
    if "split" in built:
        spelt = built["split"].dictionary_encode()
        spelt = spelt.combine_chunks() if isinstance(spelt, pa.ChunkedArray) else spelt
        canonical = [value and canonical_split(value) for value in spelt.dictionary.to_pylist()]
        built["split"] = pa.array(canonical, pa.string()).take(spelt.indices)
    for column in _LISTS:
        if column in names:
            what = f"{raw.source}: column {names[column]!r}"
            cells = take_column(raw.table, names[column])
            if column == "foils":
                built[column] = _as_foils(cells, what=what)
            else:
                built[column] = as_lists(cells, what=what, separator="," if column == "tags" else None)
    if "id" not in built and isinstance(images, FileImages):
        built["id"] = images.paths.cast(pa.string())
    used = {names.get(column) for column in (*names, "image")}
    for column in raw.table.column_names:
        if column not in used and column not in built and column not in SCHEMA:
            built[column] = raw.table[column]
    order = [column for column in ("id", "texts", *list(SCHEMA)[2:]) if column in built]
    order += [column for column in built if column not in order]
    return pa.table({column: built[column] for column in order})


def _as_foils(cells: pa.ChunkedArray, *, what: str) -> pa.ChunkedArray:
    try:
        return cells.cast(SCHEMA["foils"])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(f"{what} holds {cells.type}; foils are lists of {{kind, caption, foil}}") from error


def _skipped_rows(raw: RawRows, kept: np.ndarray, reasons: pa.ChunkedArray) -> list[SkippedRow]:
    rows = np.flatnonzero(~kept)
    if not len(rows):
        return []
    numbers = raw.row_numbers(rows).tolist()
    why = reasons.take(pa.array(rows)).to_pylist()
    return [SkippedRow(*found) for found in zip(numbers, raw.locate(numbers), why)]


def _nothing_left(name: str, total: int, skipped: list[SkippedRow]) -> str:
    if not skipped:
        return f"{name} has no rows; wanted at least one image with a caption"
    reasons = "; ".join(f"{row.source}: {row.reason}" for row in skipped[:_SHOWN_REASONS])
    more = f"; and {total - _SHOWN_REASONS} more" if total > _SHOWN_REASONS else ""
    return f"{name}: none of its {total} rows can be used ({reasons}{more})"


def _merge_repeated(table: pa.Table, images: FileImages, *, name: str) -> tuple[pa.Table, FileImages, np.ndarray]:
    """One row for the rows that share an image file and agree in label, group and domain, at the place of the first.

    Returns:
        The rows, their images, and (n,) int: the first row of each.
    """
    if len(images.paths.dictionary_encode().dictionary) == len(images):  # half the time of count_distinct
        return table, images, np.arange(len(images))
    keys = [images.paths.cast(pa.string())]
    for column in _SCALARS[1:]:
        if column in table.column_names:
            keys.append(pc.fill_null(table[column], "").combine_chunks())
    joined = pc.binary_join_element_wise(*keys, "\x1f")
    codes = joined.dictionary_encode().indices.to_numpy()  # numbered by first appearance
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(codes.max() + 1))
    first = pa.array(order[starts])
    merged = table.take(first)
    for column in ("texts", "negatives", "foils"):
        if column in table.column_names:
            cells = table[column].combine_chunks().take(pa.array(order))
            merged = merged.set_column(merged.column_names.index(column), column, _concatenate_lists(cells, starts))
    log.info("%s: %d rows name %d image files; rows of one image are read as one", name, len(table), len(merged))
    return merged, images.select(first.to_numpy()), first.to_numpy()


def _concatenate_lists(cells: pa.ListArray, starts: np.ndarray) -> pa.ListArray:
    lengths = pc.fill_null(pc.list_value_length(cells), 0).to_numpy()
    ends = np.concatenate([[0], np.cumsum(lengths)])
    offsets = np.append(ends[starts], ends[-1]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), cells.flatten())
