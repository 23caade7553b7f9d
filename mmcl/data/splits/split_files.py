"""Files that say which split each row is in: a data set's own metadata with a split column, or ids alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.joined import image_files
from mmcl.errors import ConfigError, DataError

SPLIT_FILE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def check_split_path(path: str | Path) -> Path:
    """Refuse a file of splits that could not be written, before the work is done and not after it.

    Raises:
        ConfigError: it is of another kind, or its folder is missing or not writable.
    """
    path = Path(path).expanduser()
    folder = path.absolute().parent
    if path.suffix.lower() not in SPLIT_FILE_SUFFIXES or path.is_dir():
        raise ConfigError(f"--out {path}: want a file that ends in {', '.join(SPLIT_FILE_SUFFIXES)}")
    if not folder.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {folder}; make it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise ConfigError(f"--out {path}: it cannot be written (no permission)")
    return path


def split_table(dataset: ImageTextDataset, splits: np.ndarray, folder: Path) -> pa.Table:
    """The rows of a data set with the split of each.

    Where every image is a file, the table is the whole metadata, as a table that ``load`` reads: ``file_name`` (as
    seen from ``folder``), ``text``, ``split`` (null for rows in none), and all other columns. Elsewhere it holds
    ``id`` and ``split``, for ``DATA?splits=FILE``.

    Args:
        dataset: the rows.
        splits: (n,) names, "" for none.
        folder: where the table will lie.

    Raises:
        DataError: the images are no files, and the rows have no ids, or one id stands in two splits.
    """
    named = pa.array([split or None for split in splits.tolist()], pa.string())
    files = image_files(dataset.images)
    if any(file is None for file in files):
        return pa.table({"id": _distinct_ids(dataset, splits), "split": named})
    columns: dict[str, Any] = {"file_name": pa.array(_relative(files, os.path.abspath(folder)), pa.string())}
    for name in dataset.table.column_names:
        columns["text" if name == "texts" else name] = dataset.table[name]
    return pa.table({**columns, "split": named})


def _relative(files: list[str], start: str) -> list[str]:
    """The files as seen from a folder; past a link, ``..`` leads elsewhere, so other folders are followed through."""
    folders: dict[str, str] = {}
    for file in files:
        folder = os.path.dirname(file)
        if folder not in folders:
            inside = folder == start or folder.startswith(start.rstrip(os.sep) + os.sep)
            shown = (folder, start) if inside else (os.path.realpath(folder), os.path.realpath(start))
            folders[folder] = os.path.relpath(*shown)
    paths = (os.path.join(folders[os.path.dirname(file)], os.path.basename(file)) for file in files)
    return [os.path.normpath(path) for path in paths]


def _distinct_ids(dataset: ImageTextDataset, splits: np.ndarray) -> list[str]:
    ids = dataset.column("id") if dataset.has("id") else [None]
    if None in ids:
        raise DataError(
            f"{dataset.name}: its images are no files and not every row has an id, so no file can name its rows; say "
            f"which column is the id, or let the reference share them out: DATA?train=0.8&validation=0.1&test=0.1"
        )
    split_of: dict[str, str] = {}
    for identifier, split in zip(ids, splits.tolist()):
        if split_of.setdefault(identifier, split) != split:
            raise DataError(
                f"{dataset.name}: the id {identifier!r} stands for several rows, which fall into different splits; "
                f"keep them together with by=id"
            )
    return ids


def write_split_file(path: Path, table: pa.Table) -> None:
    """Write a table of splits; it appears whole or not at all.

    Args:
        path: ``.csv``, ``.tsv`` (lists as JSON), ``.jsonl`` or ``.parquet``.
        table: of ``split_table``.

    Raises:
        ConfigError: CSV cannot hold one of the columns.
        DataError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            pq.write_table(table, partial)
        elif suffix == ".jsonl":
            with partial.open("w", encoding="utf-8") as file:
                for batch in table.to_batches(max_chunksize=10_000):
                    file.writelines(json.dumps(_present(row), ensure_ascii=False, default=str) + "\n"
                                    for row in batch.to_pylist())  # fmt: skip
        else:
            options = pa.csv.WriteOptions(delimiter="," if suffix == ".csv" else "\t")
            pa.csv.write_csv(_flat(table), partial, options)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _present(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def _flat(table: pa.Table) -> pa.Table:
    """Columns that a CSV file can hold: lists as JSON."""
    if "foils" in table.column_names:
        raise ConfigError("a CSV file cannot hold the column foils; write .jsonl or .parquet")
    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            cells = [_cell(value) for value in table[field.name].to_pylist()]
            table = table.set_column(index, field.name, pa.array(cells, pa.string()))
        elif pa.types.is_dictionary(field.type):
            table = table.set_column(index, field.name, table[field.name].cast(field.type.value_type))
    return table


def _cell(value: Any) -> str | None:
    """A list of one text, which does not look like a list itself, stands as that text."""
    if value is None or value == []:
        return None
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str) and not value[0].startswith("["):
        return value[0]
    return json.dumps(value, ensure_ascii=False, default=str)
