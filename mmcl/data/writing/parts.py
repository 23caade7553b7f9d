"""One part of a data set, written whole or not at all: a shard, a Parquet file, or some images of a folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.data.writing.job import Job, Part, Record, StoredRow
from mmcl.data.writing.names import safe_stem
from mmcl.errors import DataError

WORK_FOLDER = ".conversion"
ROW_GROUP_BYTES = 64 << 20
_ROWS_PER_FOLDER = 10_000


def write_part(job: Job, part: Part, *, tick: Callable[[], None] = lambda: None) -> Record:
    """Write a part and then its record; both appear whole, through ``os.replace``.

    Args:
        job: what is written.
        part: which rows.
        tick: called after every row.

    Returns:
        The record.

    Raises:
        DataError: the format cannot hold a column.
        OSError: the folder cannot be written.
    """
    record = Record()
    writers = {"webdataset": _write_shard, "parquet": _write_parquet, "folder": _write_images}
    rows = _counted(job.stored_rows(part, record), tick)
    try:
        writers[job.format](job, part, rows, record)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{job.out}: Parquet cannot hold a column of these data: {error}") from error
    target = record_path(job.out, part)
    partial_file = target.with_suffix(".partial")
    partial_file.write_text(record.to_json(), encoding="utf-8")
    os.replace(partial_file, target)
    return record


def _counted(rows: Iterator[StoredRow], tick: Callable[[], None]) -> Iterator[StoredRow]:
    for row in rows:
        yield row
        tick()


def record_path(out: Path, part: Part) -> Path:
    """Where the record of a part is kept."""
    return out / WORK_FOLDER / f"part-{part.number:06d}.json"


def piece_path(job: Job, part: Part) -> Path:
    """Where a part's rows wait to be joined to one table, in the formats that have one."""
    suffix = ".jsonl" if job.format == "folder" and job.json_metadata else ".parquet"
    return job.out / WORK_FOLDER / f"part-{part.number:06d}.rows{suffix}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _partial(job: Job, part: Part) -> Path:
    return job.out / WORK_FOLDER / f"part-{part.number:06d}.data.partial"


def _keep(job: Job, partial_file: Path, name: str, record: Record) -> None:
    """Give a finished file its name, and note its digest."""
    record.files[name] = file_digest(partial_file)
    os.replace(partial_file, job.out / name)


def _write_shard(job: Job, part: Part, rows: Iterator[StoredRow], record: Record) -> None:
    split = job.splits[part.split]
    name = split.name if not job.one_table else f"data-{safe_stem(split.name or '')}"
    path = _partial(job, part)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            members = {row.extension: row.image, "json": _json(row.values).encode()}
            caption = _only_caption(row.values["text"])
            if caption is not None:
                members["txt"] = caption.encode()
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{row.stem}.{ending}")  # owner and time stay 0: equal rows give equal bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    _keep(job, path, f"{name or 'data'}-{part.place:06d}.tar", record)


def _only_caption(text: str | list[str]) -> str | None:
    """The caption of a row that has one, for programs that know no other; one in brackets reads like a list."""
    captions = [text] if isinstance(text, str) else text
    return captions[0] if len(captions) == 1 and not captions[0].startswith("[") else None


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False)


def _write_parquet(job: Job, part: Part, rows: Iterator[StoredRow], record: Record) -> None:
    split = job.splits[part.split]
    image = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    schema = described(pa.schema([image, *split.table.schema]))
    path = _partial(job, part)
    with parquet_writer(path, schema) as writer:
        group: list[dict[str, Any]] = []
        size = 0
        for row in rows:
            cell = {"bytes": row.image, "path": f"{row.stem}.{row.extension}"}
            group.append({"image": cell, **row.values})
            size += len(row.image)
            if size >= ROW_GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))
                group, size = [], 0
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))
    if job.one_table:
        os.replace(path, piece_path(job, part))
    else:
        _keep(job, path, f"{split.name or 'train'}-{part.place:05d}-of-{part.of:05d}.parquet", record)


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer whose files depend on nothing but the rows; image bytes get no dictionary."""
    texts = [name for name in schema.names if name != "image"]
    return pq.ParquetWriter(path, schema, use_dictionary=texts)


def described(schema: pa.Schema) -> pa.Schema:
    """The schema with the description that `datasets` reads: the column ``image`` is shown as images.

    Raises:
        DataError: `datasets` has no such type as one of the columns.
    """
    from datasets import Features, Image

    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"`datasets` cannot describe the columns {', '.join(schema.names)}: {error}") from error
    if "image" in features:
        features["image"] = Image()
    return schema.with_metadata(features.arrow_schema.metadata)


def split_folder(job: Job, split: str | None) -> str:
    """The folder of a split's images, relative to the output; "" for data without splits."""
    return "" if split is None else safe_stem(split) or "_"


def _write_images(job: Job, part: Part, rows: Iterator[StoredRow], record: Record) -> None:
    split = job.splits[part.split]
    folder = split_folder(job, split.name)
    numbered = len(split.dataset) > _ROWS_PER_FOLDER
    path, piece = _partial(job, part), piece_path(job, part)
    table: list[dict[str, Any]] = []
    for row in rows:
        inside = f"{row.row // _ROWS_PER_FOLDER:05d}" if numbered else ""
        name = "/".join(filter(None, (inside, f"{row.stem}.{row.extension}")))
        target = "/".join(filter(None, (folder, name)))
        (job.out / target).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.image)
        os.replace(path, job.out / target)
        record.files[target] = record.digests[-1]
        table.append({"file_name": target if job.one_table else name, **row.values})
    if job.json_metadata:
        path.write_text("".join(_json(values) + "\n" for values in table), encoding="utf-8")
    else:
        schema = pa.schema([pa.field("file_name", pa.string()), *split.table.schema])
        with parquet_writer(path, schema) as writer:
            writer.write_table(pa.Table.from_pylist(table, schema=schema))
    os.replace(path, piece)
