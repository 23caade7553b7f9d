"""Rows from CSV, TSV, JSON-lines and Parquet files, by arrow's readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.batch import SkippedRow
from mmcl.data.sources.csv_lines import read_csv
from mmcl.data.sources.json_lines import read_json_lines
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

TABLE_SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")
MAX_BYTES_IN_MEMORY = 1 << 30  # Parquet files with more bytes of images are memory-mapped from a cache of `datasets`


def read_table(path: Path, *, root: Path | None = None, image_column: str | None = None) -> RawRows:
    """Read one table file.

    Lines that cannot be parsed are listed in ``skipped`` with file and line number.

    Args:
        path: a .csv, .tsv, .jsonl (or .json with one object a line, or a list of objects) or .parquet file.
        root: the folder that relative image paths start from; the file's own by default.
        image_column: the user's name of the image column; matters for Parquet files with many images inside.

    Raises:
        DataError: the file is missing, empty, cannot be read, or is of another kind.
    """
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path], RawRows]] = {
        ".jsonl": read_json_lines,
        ".json": read_json_lines,
        ".csv": partial(read_csv, delimiter=","),
        ".tsv": partial(read_csv, delimiter="\t"),
        ".parquet": partial(_read_parquet, image_column=image_column),
    }
    if suffix not in readers:
        raise DataError(f"{path}: cannot read {suffix or 'files without a suffix'}; wanted {', '.join(TABLE_SUFFIXES)}")
    try:
        raw = readers[suffix](path)
    except OSError as error:
        raise DataError(f"{path.absolute()}: {error.strerror or error}") from error
    return RawRows(raw.table, raw.source, raw.locate, raw.numbers, raw.skipped, raw.images, root or path.parent)


def read_tables(paths: Sequence[Path], *, root: Path | None = None, image_column: str | None = None) -> RawRows:
    """The rows of several table files, one after another, as of one file.

    Raises:
        DataError: as ``read_table``; or the files differ in their columns' types.
    """
    parts = [read_table(path, root=root, image_column=image_column) for path in paths]
    if len(parts) == 1:
        return parts[0]
    if any(part.images is not None for part in parts):
        return _read_mapped([str(path) for path in paths], paths[0].parent, image_column)
    starts = np.cumsum([0] + [len(part) for part in parts])

    def locate(rows: Sequence[int]) -> list[str]:
        owners = np.searchsorted(starts, rows, side="right") - 1
        return [parts[owner].locate([int(row - starts[owner])])[0] for owner, row in zip(owners, rows)]

    try:
        table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{paths[0].parent}: its {len(paths)} files differ in their columns: {error}") from error
    skipped: list[SkippedRow] = [row for part in parts for row in part.skipped]
    return RawRows(table, str(paths[0].parent), locate, skipped=skipped, root=parts[0].root)


def _read_parquet(path: Path, *, image_column: str | None) -> RawRows:
    try:
        metadata = pq.read_metadata(path)
        if _bytes_columns_size(metadata) > MAX_BYTES_IN_MEMORY:
            return _read_mapped([str(path)], path.parent, image_column)
        table = pq.read_table(path, partitioning=None)
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: no Parquet file, or a damaged one ({error})") from error
    return RawRows(table, str(path), lambda rows: [f"{path}:row {row}" for row in rows])


def _bytes_columns_size(metadata: pq.FileMetaData) -> int:
    columns = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    wanted = [i for i, column in enumerate(columns) if column.physical_type == "BYTE_ARRAY" and not _is_text(column)]
    groups = range(metadata.num_row_groups)
    return sum(metadata.row_group(group).column(index).total_uncompressed_size for group in groups for index in wanted)


def _is_text(column: pq.ColumnSchema) -> bool:
    return column.logical_type.type == "STRING"


def _read_mapped(paths: list[str], root: Path, image_column: str | None) -> RawRows:
    from datasets import Dataset

    from mmcl.data.sources.hub_datasets import rows_from_dataset

    columns = {"image": image_column} if image_column else {}
    return rows_from_dataset(Dataset.from_parquet(paths), source=paths[0], root=root, columns=columns)
