"""`write_dataset`: the splits of a data set as shards, Parquet files or a folder."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.names import canonical_split
from mmcl.data.vectors import VectorImages
from mmcl.data.writing.checking import Progress, check_written
from mmcl.data.writing.job import (
    FORMATS,
    Format,
    Job,
    Part,
    Record,
    fingerprint,
    make_job,
    make_parts,
)
from mmcl.data.writing.joining import CHECKSUMS, SKIPPED, dropped_rows, join_tables, write_checksums, write_skipped
from mmcl.data.writing.manifest import begin_work, finish_work, is_finished
from mmcl.data.writing.parts import WORK_FOLDER, record_path
from mmcl.data.writing.workers import write_parts
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

DEFAULT_SHARD_MB = 256


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
    manifest = begin_work(job, options, fingerprint(splits), shard_mb)
    parts = make_parts(job, manifest["rows_per_part"])
    if is_finished(out, manifest):
        return _with_paths(manifest["counts"], out)
    records = list(zip(parts, _write_all(job, parts, workers=workers, progress=progress)))
    if not any(record.rows for _, record in records):
        raise DataError(f"{out}: no row can be read; the first: {records[0][1].skipped[0]}")
    files = {name: digest for _, record in records for name, digest in record.files.items()}
    files |= join_tables(job, parts) | write_skipped(job, records)
    write_checksums(out, files)
    check_written(job, records, progress=progress)
    counts = _counts(job, records, files)
    finish_work(out, {**manifest, "counts": counts})
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


def _with_paths(counts: dict[str, Any], out: Path) -> dict[str, Any]:
    paths = {"out": str(out), "checksums": str(out / CHECKSUMS)}
    if (out / SKIPPED).is_file():
        paths["skipped_list"] = str(out / SKIPPED)
    return {**counts, **paths}
