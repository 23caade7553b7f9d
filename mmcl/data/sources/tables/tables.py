"""Rows from CSV, TSV, JSON-lines and Parquet files, by arrow's readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.batch import SkippedRow
from mmcl.data.sources.columns import guess_column
from mmcl.data.sources.known.coco import read_annotations
from mmcl.data.sources.known.flickr import CAPTION_SUFFIXES, read_caption_file
from mmcl.data.sources.known.image_folders import image_root
from mmcl.data.sources.known.karpathy import is_one_object
from mmcl.data.sources.rows import OneTable, RawRows, Source
from mmcl.data.sources.tables.csv_lines import read_csv
from mmcl.data.sources.tables.json_lines import read_json_lines
from mmcl.data.sources.tables.text_encoding import check_encoding, drop_undecodable
from mmcl.errors import ConfigError, DataError

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
TABLE_OPTIONS = ("encoding", "separator")  # of a data reference, behind its ``?``
MAX_BYTES_IN_MEMORY = 1 << 30  # Parquet files with more bytes of images are memory-mapped from a cache of `datasets`
_LONG_TEXT = 4096  # bytes a row: no captions, but images as base64


@dataclass(frozen=True)
class TableFormat:
    """How to read a table file, where it does not show.

    Attributes:
        root: the folder that relative image paths start from; by default the file's own, or the folder in it that has
            the images.
        image_column: the user's name of the image column.
        encoding: how a text file is written; by default UTF-8, or what its byte-order mark says.
        separator: what separates the columns of a .csv or .tsv file; by default what its header shows.
    """

    root: Path | None = None
    image_column: str | None = None
    encoding: str | None = None
    separator: str | None = None


def table_format(
    options: Mapping[str, str], *, images: Path | None = None, columns: Mapping[str, str] | None = None
) -> TableFormat:
    """The format that the ``encoding`` and ``separator`` (a character, or ``tab``) of a data reference ask for.

    Raises:
        ConfigError: no such encoding; or the separator is no single character.
    """
    encoding, separator = options.get("encoding"), options.get("separator")
    separator = {"tab": "\t", "\\t": "\t"}.get(separator or "", separator)
    if separator is not None and (len(separator) != 1 or separator in '"\r\n'):
        raise ConfigError(f"separator={separator}: wanted one character, such as ; or |, or the word tab")
    encoding = None if encoding is None else check_encoding(encoding)
    return TableFormat(images, (columns or {}).get("image"), None if encoding == "utf-8" else encoding, separator)


def open_table(
    path: Path,
    *,
    images: Path | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Source:
    """The source that a file is: a table, COCO's or Karpathy's .json, or a caption file of Flickr8k or Flickr30k.

    Args:
        path: an existing file.
        images: where relative image paths start, instead of the file's folder.
        columns: the user's column names; ``split`` and ``image`` matter here.
        options: those of ``TABLE_OPTIONS`` that were given.

    Raises:
        DataError: the file is of another kind.
        ConfigError: an option has an impossible value.
    """
    columns, suffix = columns or {}, path.suffix.lower()
    wanted = table_format(options or {}, images=images, columns=columns)
    if suffix == ".json" and is_one_object(path):
        return OneTable(partial(read_annotations, path, images=images))
    if suffix not in (*TABLE_SUFFIXES, *CAPTION_SUFFIXES, ".json"):
        raise DataError(f"{path.absolute()}: cannot read this kind of file; wanted {', '.join(TABLE_SUFFIXES)} or .tar")
    return OneTable(partial(read_tables, [path], wanted), split_column=columns.get("split", "split"))


def read_table(path: Path, wanted: TableFormat = TableFormat()) -> RawRows:
    """Read one table file.

    Lines that cannot be parsed are listed in ``skipped`` with file and line number.

    Args:
        path: a .csv, .tsv, .jsonl (or .json with one object a line, or a list of objects), .parquet, or a .txt or
            .token file of captions.
        wanted: how to read it.

    Raises:
        DataError: the file is missing, empty, cannot be read, or is of another kind.
    """
    suffix, encoding = path.suffix.lower(), wanted.encoding
    readers: dict[str, Callable[[Path], RawRows]] = {
        ".jsonl": partial(read_json_lines, encoding=encoding),
        ".json": partial(read_json_lines, encoding=encoding),
        ".csv": partial(read_csv, delimiter=wanted.separator or ",", encoding=encoding),
        ".tsv": partial(read_csv, delimiter=wanted.separator or "\t", encoding=encoding),
        ".parquet": partial(_read_parquet, wanted=wanted),
        **dict.fromkeys(CAPTION_SUFFIXES, partial(read_caption_file, encoding=encoding)),
    }
    if suffix not in readers:
        raise DataError(f"{path}: cannot read {suffix or 'files without a suffix'}; wanted {', '.join(TABLE_SUFFIXES)}")
    try:
        raw = readers[suffix](path)
        root = wanted.root
        if root is None and raw.images is None:
            root = image_root(raw.table, _image_column(raw, wanted), path.parent, source=raw.source)
    except OSError as error:
        raise DataError(f"{path.absolute()}: {error.strerror or error}") from error
    return RawRows(raw.table, raw.source, raw.locate, raw.numbers, raw.skipped, raw.images, root or path.parent)


def _image_column(raw: RawRows, wanted: TableFormat) -> str | None:
    try:
        return wanted.image_column or guess_column(raw.table.schema, "image", source=raw.source)
    except DataError:  # several may be meant: an error where images are wanted, and nothing to look for here
        return None


def read_tables(paths: Sequence[Path], wanted: TableFormat = TableFormat()) -> RawRows:
    """The rows of several table files, one after another, as of one file.

    Raises:
        DataError: as ``read_table``; or the files differ in their columns' types.
    """
    parts = [read_table(path, wanted) for path in paths]
    if len(parts) == 1:
        return parts[0]
    if any(part.images is not None for part in parts):
        return _read_mapped(paths, wanted)
    starts = np.cumsum([0] + [len(part) for part in parts])

    def locate(rows: Sequence[int]) -> list[str]:
        owners = np.searchsorted(starts, rows, side="right") - 1
        inside = [int(row - starts[owner]) for owner, row in zip(owners, rows)]
        own = [parts[owner].row_numbers(np.array([row])).tolist() for owner, row in zip(owners, inside)]
        return [parts[owner].locate(numbers)[0] for owner, numbers in zip(owners, own)]

    try:
        table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{paths[0].parent}: its {len(paths)} files differ in their columns: {error}") from error
    skipped: list[SkippedRow] = [row for part in parts for row in part.skipped]
    return RawRows(table, str(paths[0].parent), locate, skipped=skipped, root=parts[0].root)


def _read_parquet(path: Path, *, wanted: TableFormat) -> RawRows:
    try:
        metadata = pq.read_metadata(path)
        if _image_bytes(metadata) > MAX_BYTES_IN_MEMORY:
            return _read_mapped([path], wanted)
        table = _named_classes(_plain(pq.read_table(path, partitioning=None)))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise DataError(f"{path}: no Parquet file, or a damaged one ({error})") from error
    try:
        table.validate(full=True)  # the reader does not check UTF-8
    except pa.ArrowInvalid:
        return _without_undecodable(path, table)
    return RawRows(table, str(path), lambda rows: [f"{path}:row {row}" for row in rows])


def _without_undecodable(path: Path, table: pa.Table) -> RawRows:
    kinds = [pa.binary() if pa.types.is_string(field.type) else field.type for field in table.schema]
    texts = [index for index, field in enumerate(table.schema) if pa.types.is_string(field.type)]
    raw = table.cast(pa.schema(list(zip(table.column_names, kinds))))
    checked, bad = drop_undecodable(path, raw.select(texts), place=lambda row: f"row {row}")
    kept = raw.filter(pa.array(~bad))
    for index, text in zip(texts, checked.columns):
        kept = kept.set_column(index, table.column_names[index], text)
    places = [(row, f"{path}:row {row}") for row in np.flatnonzero(bad).tolist()]
    skipped = [SkippedRow(row, place, "not UTF-8") for row, place in places]
    return RawRows(kept, str(path), lambda rows: [f"{path}:row {row}" for row in rows], np.flatnonzero(~bad), skipped)


def _named_classes(table: pa.Table) -> pa.Table:
    """Class labels by name, where `datasets` wrote the file and says their names."""
    if b'"ClassLabel"' not in (table.schema.metadata or {}).get(b"huggingface", b""):
        return table
    from datasets import Features

    from mmcl.data.sources.hub.features import plain_table

    return plain_table(table, Features.from_arrow_schema(table.schema), columns={})


def _plain(table: pa.Table) -> pa.Table:
    """Arrow's views of text and bytes, as polars writes them, as plain columns."""
    kinds = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    if not any(kind in kinds for kind in table.schema.types):
        return table
    return table.cast(pa.schema([(field.name, kinds.get(field.type, field.type)) for field in table.schema]))


def _image_bytes(metadata: pq.FileMetaData) -> int:
    """The bytes of columns that hold images: encoded, or as text longer than captions are."""
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    groups, total = range(metadata.num_row_groups), 0
    for index, column in enumerate(columns):
        if column.physical_type == "BYTE_ARRAY":
            size = sum(metadata.row_group(group).column(index).total_uncompressed_size for group in groups)
            is_text = column.logical_type.type == "STRING"
            total += size if not is_text or size > _LONG_TEXT * metadata.num_rows else 0
    return total


def _read_mapped(paths: Sequence[Path], wanted: TableFormat) -> RawRows:
    from datasets import Dataset

    from mmcl.data.sources.hub.dataset_rows import rows_of_dataset

    columns = {"image": wanted.image_column} if wanted.image_column else {}
    dataset = Dataset.from_parquet([str(path) for path in paths])
    return rows_of_dataset(dataset, source=str(paths[0]), root=wanted.root or paths[0].parent, columns=columns)
