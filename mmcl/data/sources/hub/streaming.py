"""Parquet data that are not loaded whole: the light columns at once, images by row group when they are needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

from mmcl.data.cache_folder import cache_folder
from mmcl.data.images.parquet_files import LocalFiles, ParquetFiles
from mmcl.data.images.row_groups import BUFFER_BYTES, RowGroupImages, RowGroupReader, RowGroups
from mmcl.data.sources.columns import ALIASES
from mmcl.data.sources.hub.features import image_column, is_heavy, plain_table
from mmcl.data.sources.options import whole_number, yes_or_no
from mmcl.data.sources.rows import OneTable, RawRows, Source, SplitSources
from mmcl.data.splits.names import canonical_split, is_split_name, split_prefix
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

MOST_THREADS = 8  # files whose light columns are read at once: over a network each waits for answers
STREAMING_OPTIONS = ("streaming", "buffer_mb")  # what stands behind the ? of a reference
_VERSION = "1"


def streaming_bytes(base: str, options: Mapping[str, str]) -> int | None:
    """Bytes of fetched row groups that a process keeps, where options ask for streaming; None where they do not.

    Raises:
        ConfigError: a value that the options cannot take.
    """
    if not yes_or_no(base, options, "streaming", default=False):
        if "buffer_mb" in options:
            raise ConfigError(f"{base}: buffer_mb goes with streaming=true")
        return None
    return whole_number(base, options, "buffer_mb", BUFFER_BYTES >> 20) << 20


def open_streamed(
    path: Path, *, columns: Mapping[str, str], images: Path | None = None, max_bytes: int = BUFFER_BYTES
) -> Source:
    """Local Parquet as a source that is read in pieces.

    Args:
        path: a ``.parquet`` file, a pattern of them (``data/*.parquet``), or a folder with some in any depth. Names or
            folders that begin with a split (``train-00000.parquet``, ``test/0.parquet``) make splits.
        columns: the user's column names; ``image`` and ``split`` matter here.
        images: the folder that relative image paths start from; the file's own by default.
        max_bytes: of row groups that a process keeps.

    Raises:
        DataError: there is no such file, it is no Parquet, or some files name a split and others do not.
    """
    paths = _find(path)
    splits = [_split_of(file, path if path.is_dir() else file.parent) for file in paths]
    read = partial(_read_local, columns=columns, images=images, max_bytes=max_bytes)
    if None not in splits and (len(paths) > 1 or path.is_dir()):
        by_split: dict[str, list[Path]] = {}
        for file, split in zip(paths, splits):
            by_split.setdefault(canonical_split(str(split)), []).append(file)
        return SplitSources({split: partial(read, own) for split, own in by_split.items()})
    without = [file for file, split in zip(paths, splits) if split is None]
    if len(without) < len(paths) and len(paths) > 1:
        raise DataError(f"{path.absolute()}: {without[0].name} names no split and others do; move it, or name it")
    return OneTable(partial(read, paths), split_column=columns.get("split", "split"))


def _find(path: Path) -> list[Path]:
    if "*" in path.name:
        found = sorted(path.parent.glob(path.name))
    elif path.is_dir():
        found = sorted(file for file in path.rglob("*.parquet") if not _is_hidden(file.relative_to(path)))
    else:
        found = [path]
    if len(found) == 1 and not found[0].exists():
        raise DataError(f"there is no {found[0].absolute()}; wanted a .parquet file, or a folder of them")
    wrong = next((file for file in found if file.suffix.lower() != ".parquet" or not file.is_file()), None)
    if wrong is not None or not found:
        raise DataError(
            f"{(wrong or path).absolute()}: {'no Parquet file' if wrong is not None else 'no .parquet file is there'}; "
            f"streaming reads Parquet alone. Leave ?streaming=true out (folders, tables of paths and shards are read "
            f"image by image anyway), or write Parquet with `mmcl data convert DATA -o OUT --format parquet`"
        )
    return found


def _is_hidden(file: Path) -> bool:
    return any(part.startswith(".") for part in file.parts)


def _split_of(file: Path, root: Path) -> str | None:
    folders = file.relative_to(root).parts[:-1]
    return split_prefix(file.name) or next((name for name in folders if is_split_name(name)), None)


def _read_local(paths: Sequence[Path], *, columns: Mapping[str, str], images: Path | None, max_bytes: int) -> RawRows:
    files = LocalFiles([str(path.absolute()) for path in paths])
    root = images or paths[0].absolute().parent
    source = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more files"
    return read_streamed(files, source=source, columns=columns, root=root, max_bytes=max_bytes)


def read_streamed(
    files: ParquetFiles,
    *,
    source: str,
    columns: Mapping[str, str],
    root: Path = Path(),
    max_bytes: int = BUFFER_BYTES,
    keep: bool = False,
) -> RawRows:
    """The rows of Parquet files: every column but images is read now, images when they are used.

    Group ids, splits, evaluation and resume work as for data that are loaded whole, for the table is complete. Texts
    and other light columns are a few hundred bytes a row.

    Args:
        files: the files, in order, of one schema.
        source: their name, for messages.
        columns: the user's column names; ``image`` matters here.
        root: the folder that images which are paths start from.
        max_bytes: of row groups that a process keeps.
        keep: keep the light columns under ``cache_folder()``, for files that are far away.

    Raises:
        DataError: a file cannot be read or is no Parquet, their columns differ, or no column is the image.
    """
    from datasets import Features

    cached = _cached_file(files, columns.get("image")) if keep else None
    found = None if cached is None else _read_kept(cached)
    schema = _of_file(files, 0, lambda parquet: parquet.schema_arrow) if found is None else found[2]
    features = Features.from_arrow_schema(schema)
    column = _streamed_image(features, columns.get("image"), source)
    if found is None:
        light = [name for name, feature in features.items() if name != column and not is_heavy(feature)]
        table, groups = _read_light(files, light, column, source)
        if cached is not None:
            _keep(table, groups, schema, cached)
    else:
        table, groups, _ = found
    table = plain_table(table, features, columns=columns)

    def locate(rows: Sequence[int]) -> list[str]:
        of = groups.file[groups.of_row(np.asarray(rows, dtype=np.int64))]
        firsts = groups.starts[np.searchsorted(groups.file, of)]
        return [f"{files.name(int(file))}:row {row - int(first)}" for file, row, first in zip(of, rows, firsts)]

    images = None
    if column is not None:
        images = RowGroupImages(RowGroupReader(files, groups, column, max_bytes=max_bytes), source=source, root=root)
    return RawRows(table, source, locate, images=images, root=root)


def _streamed_image(features: Mapping[str, Any], wanted: str | None, source: str) -> str | None:
    """The column of encoded images; None where it names files, which are read one by one as of any table."""
    name = wanted or next((name for name in ALIASES["image"] if name in features), None)
    if name in features and getattr(features[name], "dtype", "") in ("string", "large_string"):
        return None
    return image_column(features, wanted, source)


def _of_file(files: ParquetFiles, number: int, use: Callable[[pq.ParquetFile], Any]) -> Any:
    name = files.name(number)
    try:
        with files.open(number) as file:
            return use(pq.ParquetFile(file, pre_buffer=True))  # neighbouring columns by one request
    except MemoryError:
        raise
    except pa.ArrowInvalid as error:
        raise DataError(f"{name}: no Parquet file, or a damaged one ({error})") from error
    except Exception as error:  # the HTTP client's errors and OSError share no base
        reason = str(error).splitlines()[0] if str(error) else ""
        raise DataError(f"{name}: cannot be read ({type(error).__name__}: {reason})") from error


def _read_light(files: ParquetFiles, light: list[str], column: str | None, source: str) -> tuple[pa.Table, RowGroups]:
    def read(parquet: pq.ParquetFile) -> tuple[pa.Table, list[int], list[int]]:
        footer = parquet.metadata
        missing = [
            name for name in (*light, *([] if column is None else [column])) if name not in parquet.schema_arrow.names
        ]
        if missing:
            raise pa.ArrowInvalid(f"it has no column {missing[0]!r}, which the first file has")
        parts = [footer.row_group(number) for number in range(footer.num_row_groups)]
        own = [i for i in range(footer.num_columns) if footer.schema.column(i).path.partition(".")[0] == column]
        sizes = [sum(part.column(i).total_uncompressed_size for i in own) for part in parts]
        return parquet.read(columns=light, use_threads=False), [part.num_rows for part in parts], sizes

    found: dict[int, tuple[pa.Table, list[int], list[int]]] = {}
    pool = ThreadPoolExecutor(min(MOST_THREADS, len(files)))
    try:
        work = {pool.submit(_of_file, files, number, read): number for number in range(len(files))}
        for future in as_completed(work):
            found[work[future]] = future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    parts = [found[number] for number in range(len(files))]
    file = np.repeat(np.arange(len(parts)), [len(rows) for _, rows, _ in parts])
    number = np.concatenate([np.arange(len(rows)) for _, rows, _ in parts])
    rows = np.concatenate([np.array(rows, dtype=np.int64) for _, rows, _ in parts])
    sizes = np.concatenate([np.array(sizes, dtype=np.int64) for _, _, sizes in parts])
    kept = rows > 0
    starts = np.concatenate([[0], np.cumsum(rows[kept])])
    groups = RowGroups(file[kept].astype(np.int64), number[kept].astype(np.int64), starts, sizes[kept])
    try:
        table = pa.concat_tables([table for table, _, _ in parts], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{source}: its {len(files)} files differ in their columns: {error}") from error
    return table, groups


def _cached_file(files: ParquetFiles, image: str | None) -> Path:
    key = json.dumps([_VERSION, files.identity(), image])
    return cache_folder() / "streamed" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"


def _read_kept(cached: Path) -> tuple[pa.Table, RowGroups, pa.Schema] | None:
    try:
        if not cached.is_file():
            return None
        table = feather.read_table(cached, memory_map=True)
        arrays = json.loads(table.schema.metadata[b"row_groups"])
        schema = pa.ipc.read_schema(pa.py_buffer(table.schema.metadata[b"schema"]))
        groups = RowGroups(*(np.array(array, dtype=np.int64) for array in arrays))
        return table.replace_schema_metadata(), groups, schema
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("%s is damaged; the columns are fetched again", cached)
        return None


def _keep(table: pa.Table, groups: RowGroups, schema: pa.Schema, cached: Path) -> None:
    arrays = [array.tolist() for array in (groups.file, groups.number, groups.starts, groups.num_bytes)]
    partial_file = cached.with_suffix(f".{os.getpid()}.partial")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        about = {b"row_groups": json.dumps(arrays).encode(), b"schema": schema.serialize().to_pybytes()}
        # Uncompressed: it is mapped, and takes no memory that is not used.
        feather.write_feather(table.replace_schema_metadata(about), str(partial_file), compression="uncompressed")
        os.replace(partial_file, cached)
    except OSError as error:
        log.warning("the columns cannot be kept in %s (%s); set MMCL_CACHE", cached.parent, error)
    finally:
        partial_file.unlink(missing_ok=True)
