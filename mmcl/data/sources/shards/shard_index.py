"""What stands where in a tar shard: one row a sample, made once and kept beside the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import BinaryIO

import pyarrow as pa
import pyarrow.feather as feather

from mmcl.data.cache_folder import cache_folder
from mmcl.data.sources.shards.tar_headers import BLOCK, Damage, Member, walk_headers
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif")
TEXT_EXTENSIONS = ("txt", "text", "caption")
LARGEST_TEXT = 64 << 20  # bytes of a text, label or json member
MOST_THREADS = 4  # while one waits for the disk another works; Python runs one at a time
_VERSION = b"2"
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
_COLUMN = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "member"),
    **dict.fromkeys(TEXT_EXTENSIONS, "text"),
    "cls": "label",
    "json": "json",
}
_META = re.compile(r"__[^/]*__($|/)")  # WebDataset's own notes
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"PK\x03\x04": "zip",
}
_PROBES = 3  # blocks that show whether a file of equal size and time is the one that was indexed


def index_shards(paths: Sequence[str], *, progress: Callable[[str, int, int], None] | None = None) -> list[pa.Table]:
    """The index of each shard, in order; those not kept yet are made, several at a time.

    An index is kept under ``cache_folder()`` with the shard's size, time of change and a hash of three of its headers;
    one that does not fit is made again.

    Args:
        paths: absolute paths of uncompressed tar files.
        progress: told how many shards are indexed, where any has to be.

    Returns:
        Tables with columns key, member, offset, size, text, label, json, problem; a row a sample, in the order of
        their first members. ``problem`` says why a sample cannot be used; such a row may stand for a place in the file.

    Raises:
        DataError: a file is missing, no tar archive, or compressed.
    """
    found = {path: table for path in paths if (table := _kept_index(path)) is not None}
    missing = [path for path in dict.fromkeys(paths) if path not in found]
    if missing:
        log.info("indexing %d of %d shard(s)", len(missing), len(paths))
        pool, stop = ThreadPoolExecutor(min(MOST_THREADS, len(missing))), Event()
        try:
            work = {pool.submit(_make_index, path, stop): path for path in missing}
            for done, future in enumerate(as_completed(work), start=1):
                found[work[future]] = future.result()
                if progress is not None:
                    progress("indexing shards", done, len(missing))
        finally:
            stop.set()  # an error or Ctrl-C ends the work at once; shards that are indexed stay so
            pool.shutdown(cancel_futures=True)
    return [found[path] for path in paths]


def _cached_file(path: str) -> Path:
    return cache_folder() / "tar_index" / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.arrow"


def _kept_index(path: str) -> pa.Table | None:
    cached = _cached_file(path)
    try:
        if not cached.is_file():
            return None
        table = feather.read_table(cached)
        kept = table.schema.metadata or {}
        probes = json.loads(kept.get(b"probes", b"[]"))
        with open(path, "rb", buffering=0) as file:
            fits = kept.get(b"state") == _state(os.fstat(file.fileno())) and kept[b"digest"] == _digest(file, probes)
        return table if fits else None
    except (OSError, ValueError, KeyError):  # pa.ArrowInvalid is a ValueError; a shard that is missing is told later
        log.warning("the index of %s in %s is damaged or its shard is gone; it is made again", path, cached)
        return None


def _state(stat: os.stat_result) -> bytes:
    return b"%s %d %d" % (_VERSION, stat.st_size, stat.st_mtime_ns)


def _digest(file: BinaryIO, offsets: Sequence[int]) -> bytes:
    digest = hashlib.sha256()
    for offset in offsets:
        file.seek(offset)
        digest.update(file.read(BLOCK))
    return digest.hexdigest().encode()


def _make_index(path: str, stop: Event) -> pa.Table:
    try:
        with open(path, "rb", buffering=8192) as file:
            before = os.fstat(file.fileno())
            table = scan_shard(file, path=path, file_size=before.st_size, stop=stop)
            unchanged = _state(os.fstat(file.fileno())) == _state(before)
            # The blocks before members' data: their headers.
            starts = table["offset"].drop_null().to_pylist()
            probes = [starts[len(starts) * part // _PROBES] - BLOCK for part in range(_PROBES) if starts]
            about = {b"state": _state(before), b"probes": json.dumps(probes).encode(), b"digest": _digest(file, probes)}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not unchanged:
        log.warning("%s was written to while it was indexed; its index is not kept", path)
        return table
    _keep(table.replace_schema_metadata(about), _cached_file(path), path)
    return table


def _keep(table: pa.Table, cached: Path, path: str) -> None:
    partial_file = cached.with_suffix(f".{os.getpid()}.partial")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        feather.write_feather(table, str(partial_file), compression="zstd")
        os.replace(partial_file, cached)
    except OSError as error:
        log.warning("the index of %s cannot be kept in %s (%s); set MMCL_CACHE", path, cached.parent, error)
    finally:
        partial_file.unlink(missing_ok=True) if partial_file.parent.is_dir() else None


def scan_shard(file: BinaryIO, *, path: str, file_size: int, stop: Event | None = None) -> pa.Table:
    """Index one shard, whatever is kept; see ``index_shards``.

    Args:
        file: the shard, opened for reading bytes.
        path: its name, for messages.
        file_size: its bytes.
        stop: another thread sets it when the index is no longer wanted.

    Raises:
        DataError: it is no tar archive, or compressed; or nobody wants it any more.
    """
    start = file.read(8)
    packing = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if packing is not None:
        raise DataError(f"{path}: a compressed archive ({packing}); only plain .tar files can be read at any offset")
    if not file_size:
        raise DataError(f"{path}: no tar archive: the file is empty (0 bytes)")
    samples = _Samples(file, file_size)
    for found in walk_headers(file, file_size):
        if stop is not None and stop.is_set():
            raise DataError(f"{path}: indexing was broken off")
        if isinstance(found, Member):
            samples.add(found)
        elif found.offset == 0:
            raise DataError(f"{path}: no tar archive, or a damaged one ({found.reason})")
        else:
            samples.add_damage(found)
    if samples.num_further:
        log.warning("%s: %d further images of samples that have one already are not read", path, samples.num_further)
    return samples.table()


class _Samples:
    """Members put together to samples, as WebDataset does: consecutive members of one key, and later ones of that key
    where the sample lacks them. A key that comes again with what it had is another sample."""

    def __init__(self, file: BinaryIO, file_size: int) -> None:
        self._file, self._file_size = file, file_size
        self._rows: list[dict[str, str | int]] = []
        self._by_key: dict[str, dict[str, str | int]] = {}
        self._current: dict[str, str | int] = {}
        self._extensions: set[str] = set()  # of the current sample's consecutive members
        self.num_further = 0

    def add_damage(self, damage: Damage) -> None:
        self._rows.append({"key": f"byte {damage.offset}", "problem": damage.reason})

    def add(self, member: Member) -> None:
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        extension = extension.lower()
        if member.kind == "folder" or (member.name.startswith("__") and _META.match(member.name)):
            return
        if member.kind != "file":
            self._rows.append({"key": member.name, "problem": f"a {member.kind}; only files are read, links never"})
            return
        column = _COLUMN.get(extension)
        if column is None or not stem:
            return
        if member.name.startswith("/") or ".." in folder.split("/"):
            self._rows.append({"key": member.name, "problem": "its name leads out of the archive"})
            return
        sample = self._sample(folder + slash + stem, column)
        if extension in self._extensions:
            key = sample["key"]
            self._rows.append({"key": f"{key}.{extension}", "problem": "stands twice in its sample; the first is read"})
        elif column in sample:
            self.num_further += column == "member"
        else:
            self._fill(sample, column, member)
        self._extensions.add(extension)

    def _sample(self, key: str, column: str) -> dict[str, str | int]:
        if self._current.get("key") != key:
            sample = self._by_key.get(key)
            if sample is None or column in sample:
                sample = {"key": key}
                self._by_key[key] = sample
                self._rows.append(sample)
            self._current, self._extensions = sample, set()
        return self._current

    def _fill(self, sample: dict[str, str | int], column: str, member: Member) -> None:
        if member.offset + member.size > self._file_size:
            sample["problem"] = f"the shard is cut short inside {member.name}"
        elif column == "member":
            sample |= {"member": member.name, "offset": member.offset, "size": member.size}
        elif member.size > LARGEST_TEXT:
            sample["problem"] = f"{member.name} has {member.size} bytes; a text has {LARGEST_TEXT} at most"
        else:
            self._file.seek(member.offset)
            try:
                text = self._file.read(member.size).decode("utf-8-sig")
                sample[column] = _one_object(text) if column == "json" else text.strip()
            except ValueError as error:
                sample["problem"] = f"{member.name} cannot be read ({error})"

    def table(self) -> pa.Table:
        for row in self._rows:
            if "member" not in row and "problem" not in row:
                row["problem"] = _why_no_image(row.get("json"))
        columns = [
            pa.array([row.get(name) for row in self._rows], kind) for name, kind in zip(_INDEX.names, _INDEX.types)
        ]
        return pa.Table.from_arrays(columns, schema=_INDEX)


def _one_object(text: str) -> str:
    """JSON of one object, on one line."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, wanted an object")
    # A line break inside a string is written \\n: those that are left are blanks.
    return text.replace("\r", " ").replace("\n", " ")


def _why_no_image(text: str | int | None) -> str:
    status = json.loads(text).get("status") if isinstance(text, str) else None  # img2dataset notes failures so
    said = f"; its status is {status!r}" if isinstance(status, str) and status != "success" else ""
    return f"no image ({', '.join(IMAGE_EXTENSIONS)}) in the sample{said}"
