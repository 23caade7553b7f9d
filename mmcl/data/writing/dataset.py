"""`write_dataset`: the splits of a data set as shards, Parquet files or a folder."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.tables import TABLE_SUFFIXES
from mmcl.data.splits import canonical_split
from mmcl.data.vectors import VectorImages
from mmcl.data.writing.checking import Progress, check_written
from mmcl.data.writing.job import (
    FOLDER_ROWS,
    FORMATS,
    Format,
    Job,
    Part,
    Record,
    fingerprint,
    make_job,
    make_parts,
    mean_row_bytes,
)
from mmcl.data.writing.joining import CHECKSUMS, SKIPPED, dropped_rows, join_tables, write_checksums, write_skipped
from mmcl.data.writing.parts import WORK_FOLDER, record_path
from mmcl.data.writing.workers import write_parts
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

DEFAULT_SHARD_MB = 256
_LAYOUT = 1  # of the manifest; folders begun by another layout are not gone on with
_MANIFEST = "manifest.json"
_SPARE = 1.05  # headers, padding, tables and checksums beside the images


def write_dataset(
    splits: Mapping[str | None, ImageTextDataset],
    out: Path,
    *,
    format: Format,
    resize: int | None = None,
    shard_mb: int = DEFAULT_SHARD_MB,
    workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write data sets so that ``mmcl.data.load`` reads them back with every row, caption and column, in order.

    Encoded images are copied byte by byte; pixels become PNG, as in shards do the few formats that have no extension
    there. Each image is decoded once on the way: rows that mmcl
    could not read are left out and listed in ``skipped.jsonl``, with those that the source's reader dropped. File names
    come from the ids and are safe on any system. ``checksums.sha256`` lists every file. At the end everything is read
    back and compared with the source. The same rows and options give the same bytes, whatever ``workers`` is.

    Broken off, the same call goes on where it stood: finished parts are kept.

    Args:
        splits: split -> its rows, as ``load_all`` gives them; the only key may be None, for data without splits.
        out: the folder to write; new, empty, or one that this same call has begun or finished.
        format: ``webdataset``: ``train-000000.tar`` ..., an image, ``.json`` with captions and all columns, and
            ``.txt`` for images with one caption. ``parquet``: ``train-00000-of-00004.parquet`` ...
            with the images inside, as `datasets` writes them. ``folder``: ``train/metadata.jsonl`` beside the images
            (``metadata.parquet`` where JSON does not know a column's type). Splits of other names than train,
            validation and test stand together in one table with a column ``split``.
        resize: length of the shorter side in pixels, for images where it is longer; see ``shrink``. None: as they are.
        shard_mb: about how large a shard or Parquet file is, in MB (10**6 bytes), by the mean of some rows.
        workers: processes; 0 writes in this one.
        progress: told what is done ("writing", "checking"), how many rows, and of how many.

    Returns:
        ``format``; ``rows``: split -> rows written; ``skipped``: split -> rows left out here; ``dropped``: rows that
        the reader had left out; ``re_encoded``: format -> images; ``renamed_columns``, ``changed_columns``;
        ``files``, ``bytes``, and the paths ``checksums`` and, if there is one, ``skipped_list``.

    Raises:
        ConfigError: an unknown format, a size below 1, or ``out`` holds something else.
        DataError: no rows, vectors instead of images, no space, no image that can be read, a column that cannot be
            written, or the result is not read back as the source was.

    Example:
        >>> import tempfile, mmcl.data
        >>> scenes = mmcl.data.load("shapes?test=3:test")
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_dataset({"test": scenes}, folder, format="folder")["rows"]
        {'test': 3}
        >>> mmcl.data.load(folder).texts(0) == scenes.texts(0)
        True
    """
    _check_options(format, resize, shard_mb, workers)
    splits = _canonical(splits)
    out = Path(out).expanduser()
    job = make_job(splits, out, format=format, resize=resize)
    options = {"format": format, "resize": resize, "shard_mb": None if format == "folder" else shard_mb}
    manifest = _begin(job, options, fingerprint(splits), shard_mb)
    parts = make_parts(job, manifest["rows_per_part"])
    if manifest.get("counts") is not None and _files_are_there(out):
        return _with_paths(manifest["counts"], out)
    records = list(zip(parts, _write_all(job, parts, workers=workers, progress=progress)))
    if not any(record.rows for _, record in records):
        raise DataError(f"{out}: no row can be read; the first: {records[0][1].skipped[0]}")
    files = {name: digest for _, record in records for name, digest in record.files.items()}
    files |= join_tables(job, parts) | write_skipped(job, records)
    write_checksums(out, files)
    check_written(job, records, progress=progress)
    counts = _counts(job, records, files)
    _finish(out, {**manifest, "counts": counts})
    return _with_paths(counts, out)


def _check_options(format: str, resize: int | None, shard_mb: int, workers: int) -> None:
    if format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"format={format!r} is unknown; known are {', '.join(FORMATS)}{hint}")
    for name, value, least in (("resize", resize, 1), ("shard_mb", shard_mb, 1), ("workers", workers, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name}={value} is too small; it must be at least {least}")


def _canonical(splits: Mapping[str | None, ImageTextDataset]) -> dict[str | None, ImageTextDataset]:
    named = {None if name is None else canonical_split(name): dataset for name, dataset in splits.items()}
    if len(named) < len(splits) or (None in named and len(named) > 1):
        raise DataError(
            f"the splits {', '.join(map(str, splits))} cannot stand together; give each one name of its own"
        )
    if not any(len(dataset) for dataset in named.values()):
        raise DataError("there are no rows to write; wanted at least one image with a caption")
    for dataset in named.values():
        if isinstance(dataset.images, VectorImages):
            raise DataError(f"{dataset.name} holds vectors and no images; there is nothing to write")
    return named


def _begin(job: Job, options: dict[str, Any], source: str, shard_mb: int) -> dict[str, Any]:
    """The manifest of this work: the one in the folder, when it is the same work; else a new one, in a free folder."""
    if job.out.suffix.lower() in (".tar", ".json", *TABLE_SUFFIXES):
        raise ConfigError(f"{job.out} looks like a file; what is written is a folder: name it {job.out.stem}")
    path = job.out / WORK_FOLDER / _MANIFEST
    asked = {"layout": _LAYOUT, "options": options, "source": source}
    if path.is_file():
        return _go_on(path, asked)
    if job.out.exists() and (not job.out.is_dir() or any(job.out.iterdir())):
        raise ConfigError(f"{job.out} holds something else already; name a new or an empty folder")
    row_bytes = mean_row_bytes(job)
    _check_space(job, row_bytes)
    rows = FOLDER_ROWS if job.format == "folder" else max(1, int(shard_mb * 1e6 / row_bytes))
    manifest = {**asked, "rows_per_part": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_manifest(path, manifest)
    return manifest


def _go_on(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    out = path.parent.parent
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        rows_per_part, options = manifest["rows_per_part"], manifest["options"]
        known = isinstance(rows_per_part, int) and manifest["layout"] == _LAYOUT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}); name another folder, or delete {out}") from error
    if not known:
        raise ConfigError(f"{out} was begun by another version of mmcl; name another folder, or delete it")
    for name, value in asked["options"].items():
        if options.get(name) != value:
            raise ConfigError(
                f"{out} was begun with {name}={options.get(name)}, now it is {value}; name another folder, or delete it"
            )
    if manifest.get("source") != asked["source"]:
        raise ConfigError(
            f"{out} was begun from other data, or they have changed since; name another folder, or delete it"
        )
    return manifest


def _check_space(job: Job, row_bytes: float) -> None:
    rows = sum(len(split.dataset) for split in job.splits)
    joined = job.format == "parquet" and job.one_table  # pieces and the table made of them stand side by side
    needed = rows * row_bytes * _SPARE * (2 if joined else 1)
    folder = job.out.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{job.out}: about {needed / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free; "
            "name a folder on a larger disk, or make the images smaller"
        )


def _write_all(job: Job, parts: Sequence[Part], *, workers: int, progress: Progress | None) -> list[Record]:
    records: dict[int, Record] = {}
    for part in parts:
        record = _read_record(job, part)
        if record is not None:
            records[part.number] = record
    missing = [part for part in parts if part.number not in records]
    if records and missing:
        log.info("%s: %d of %d parts are there already", job.out, len(records), len(parts))
    for left in (job.out / WORK_FOLDER).glob("*.partial"):
        left.unlink()
    records |= write_parts(job, missing, workers=workers, progress=progress, of=sum(p.stop - p.start for p in parts))
    return [records[part.number] for part in parts]


def _read_record(job: Job, part: Part) -> Record | None:
    """What became of a part; None where it is not written, or its files have gone."""
    try:
        record = Record.from_json(record_path(job.out, part).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if all((job.out / name).is_file() for name in record.files) else None


def _files_are_there(out: Path) -> bool:
    try:
        lines = (out / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return all((out / line[66:]).is_file() for line in lines)


def _counts(job: Job, records: Sequence[tuple[Part, Record]], files: Mapping[str, str]) -> dict[str, Any]:
    rows: dict[str, int] = {}
    skipped: dict[str, int] = {}
    re_encoded: dict[str, int] = {}
    for part, record in records:
        name = job.splits[part.split].name or "all"
        rows[name] = rows.get(name, 0) + record.rows
        skipped[name] = skipped.get(name, 0) + len(record.skipped)
        for kind, number in record.re_encoded.items():
            re_encoded[kind] = re_encoded.get(kind, 0) + number
    return {
        "format": job.format,
        "rows": rows,
        "skipped": skipped,
        "dropped": len(dropped_rows(job)),
        "re_encoded": re_encoded,
        "renamed_columns": job.renamed,
        "changed_columns": job.changed,
        "files": len(files),
        "bytes": sum((job.out / name).stat().st_size for name in files),
    }


def _finish(out: Path, manifest: dict[str, Any]) -> None:
    """Write down that all is done; what was kept to go on from is not needed any more."""
    _write_manifest(out / WORK_FOLDER / _MANIFEST, manifest)
    for path in (out / WORK_FOLDER).glob("part-*"):
        path.unlink()


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    partial_file = path.with_suffix(".partial")
    partial_file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial_file, path)


def _with_paths(counts: dict[str, Any], out: Path) -> dict[str, Any]:
    paths = {"out": str(out), "checksums": str(out / CHECKSUMS)}
    if (out / SKIPPED).is_file():
        paths["skipped_list"] = str(out / SKIPPED)
    return {**counts, **paths}
