"""WebDataset shards, read map-style: an index of where each member stands makes any order and exact resume possible."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from mmcl.batch import SkippedRow
from mmcl.data.cache_folder import cache_folder
from mmcl.data.images.tars import TarImages
from mmcl.data.sources.json_lines import table_from_lines
from mmcl.data.sources.rows import OneTable, RawRows, Source, SplitSources
from mmcl.data.splits import canonical_split, split_prefix
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSIONS = ("txt", "caption")
_INDEX_VERSION = "1"
_INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("member", pa.string()),  # the image's name; null where the sample has none
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("text", pa.string()),
        ("label", pa.string()),
        ("json", pa.string()),
        ("problem", pa.string()),
    ]
)


def expand_shards(pattern: Path) -> list[Path]:
    """The files of ``shards-{000..099}.tar``, ``{a,b}.tar``, ``shards-*.tar`` or one ``.tar``.

    Raises:
        DataError: one of them is missing, none matches, or they are compressed.
    """
    if not pattern.name.endswith(".tar"):
        raise DataError(f"{pattern}: only uncompressed .tar shards can be read at any offset; unpack it first")
    paths: list[Path] = []
    for name in _expand_braces(str(pattern)):
        paths += sorted(Path(name).parent.glob(Path(name).name)) if "*" in Path(name).name else [Path(name)]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(
            f"{pattern.absolute()}: {len(missing)} of {len(paths)} shards are missing"
            + (f", the first is {missing[0].absolute()}" if missing else "; no file matches")
        )
    return paths


def _expand_braces(pattern: str) -> list[str]:
    pieces = []
    for piece in re.split(r"(\{[^{}]*\})", pattern):
        span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", piece)
        if span:
            first, last = span.groups()
            width = len(first) if first.startswith("0") else 0
            pieces.append([str(number).zfill(width) for number in range(int(first), int(last) + 1)])
        else:
            pieces.append(piece[1:-1].split(",") if piece.startswith("{") else [piece])
    return ["".join(choice) for choice in itertools.product(*pieces)]


def open_shards(paths: Sequence[Path]) -> Source:
    """Shards as a source; where all names begin with a split (``train-000.tar``, ``val_3.tar``), with those splits."""
    splits = [split_prefix(path.name) for path in paths]
    if None in splits:
        return OneTable(partial(read_shards, list(paths)))
    readers: dict[str, Callable[[], RawRows]] = {}
    for split in dict.fromkeys(canonical_split(split) for split in splits if split):
        own = [path for path, its in zip(paths, splits) if its and canonical_split(its) == split]
        readers[split] = partial(read_shards, own)
    return SplitSources(readers)


def read_shards(paths: Sequence[Path]) -> RawRows:
    """The samples of some shards: ``KEY.jpg|jpeg|png|webp`` with ``KEY.txt|caption`` (one caption), ``KEY.cls`` (label)
    and ``KEY.json`` (columns; its ``text`` or ``caption`` counts where there is no text file).

    As in WebDataset, a key is the member's path up to the first dot of its name. Each shard's headers are read once and
    its index kept under ``cache_folder()``, under the shard's path, size and time.

    Raises:
        DataError: a file is no tar archive.
    """
    names = [str(path.absolute()) for path in paths]
    indexes = [_shard_index(name) for name in names]
    table = pa.concat_tables(indexes).combine_chunks()
    shard = np.repeat(np.arange(len(names), dtype=np.int32), [len(index) for index in indexes])
    usable = pc.is_null(table["problem"]).to_numpy(zero_copy_only=False)

    def locate(rows: Sequence[int]) -> list[str]:
        return [f"{names[shard[row]]}:{table['key'][row].as_py()}" for row in rows]

    bad = np.flatnonzero(~usable).tolist()
    skipped = [SkippedRow(row, place, table["problem"][row].as_py()) for row, place in zip(bad, locate(bad))]
    numbers = np.flatnonzero(usable)
    kept, shard_of = table.take(pa.array(numbers)).combine_chunks(), shard[numbers]
    offsets, sizes = (kept[name].to_numpy() for name in ("offset", "size"))
    images = TarImages(names, shard_of, offsets, sizes, _only_chunk(kept["member"]))
    source = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more shards"
    return RawRows(_columns(kept), source, locate, numbers, skipped, images)


def _columns(index: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {"id": index["key"]}
    if index["json"].null_count < len(index):
        lines = pc.fill_null(index["json"], "{}").to_pylist()
        values = table_from_lines(lines)
        columns |= {name: values[name] for name in values.column_names}
    for name in ("text", "label"):
        if index[name].null_count == len(index):
            continue
        other = next((columns[key] for key in (name, "caption") if key in columns and name == "text"), None)
        if other is not None and pa.types.is_string(other.type):
            columns[name] = pc.coalesce(index[name], other)
        else:
            columns[name] = index[name]
    return pa.table(columns)


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _shard_index(path: str) -> pa.Table:
    stat = os.stat(path)
    key = "\x1f".join((_INDEX_VERSION, path, str(stat.st_size), str(stat.st_mtime_ns)))
    cached = cache_folder() / "tar_index" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.arrow"
    if cached.is_file():
        try:
            return feather.read_table(cached)
        except (OSError, pa.ArrowInvalid):
            log.warning("%s is damaged; indexing %s again", cached, path)
    log.info("indexing %s", path)
    index = _scan(path, stat.st_size)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial_file = cached.with_suffix(f".{os.getpid()}.partial")
        feather.write_feather(index, str(partial_file), compression="zstd")
        os.replace(partial_file, cached)
    except OSError as error:
        log.warning("the index of %s cannot be kept in %s (%s); set MMCL_CACHE", path, cached.parent, error)
    return index


def _scan(path: str, file_size: int) -> pa.Table:
    samples: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile():
                    _add_member(tar, member, samples, file_size)
    except tarfile.ReadError as error:
        if not samples:
            raise DataError(f"{path}: no tar archive, or a compressed or damaged one ({error})") from error
        last = next(reversed(samples.values()))
        last.setdefault("problem", f"the shard is cut short here ({error})")
    for sample in samples.values():
        if "member" not in sample:
            sample.setdefault("problem", f"no image ({', '.join(IMAGE_EXTENSIONS)}) in the sample")
    return pa.Table.from_pylist([{"key": key, **sample} for key, sample in samples.items()], schema=_INDEX)


def _add_member(
    tar: tarfile.TarFile, member: tarfile.TarInfo, samples: dict[str, dict[str, Any]], file_size: int
) -> None:
    folder, slash, name = member.name.rpartition("/")
    stem, _, extension = name.partition(".")
    extension = extension.lower()
    if not stem or extension not in (*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS, "cls", "json"):
        return
    sample = samples.setdefault(folder + slash + stem, {})
    if member.offset_data + member.size > file_size:
        sample["problem"] = f"the shard is cut short inside {member.name}"
    elif extension in IMAGE_EXTENSIONS:
        if "member" not in sample:
            sample |= {"member": member.name, "offset": member.offset_data, "size": member.size}
    else:
        data = tar.extractfile(member)
        try:
            text = data.read().decode("utf-8-sig") if data else ""
            if extension == "json":
                sample["json"] = json.dumps(_object(text), ensure_ascii=False)
            else:
                sample["label" if extension == "cls" else "text"] = text.strip()
        except ValueError as error:
            sample["problem"] = f"{member.name} cannot be read ({error})"


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, wanted an object")
    return value
