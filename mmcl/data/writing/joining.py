"""What is made when all parts are there: a folder's tables, the list of skipped rows, the checksums."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from mmcl.batch import SkippedRow
from mmcl.data.writing.job import Job, Part, Record
from mmcl.data.writing.parts import WORK_FOLDER, file_digest, parquet_writer, piece_path, split_folder

CHECKSUMS = "checksums.sha256"
SKIPPED = "skipped.jsonl"


def join_tables(job: Job, parts: Sequence[Part]) -> dict[str, str]:
    """Join the parts' rows to the tables of a folder, or to one table for splits of any name.

    Returns:
        Path below the output folder -> SHA-256; empty for formats without such tables.
    """
    if job.format != "folder" and not (job.format == "parquet" and job.one_table):
        return {}
    suffix = "jsonl" if job.format == "folder" and job.json_metadata else "parquet"
    by_table: dict[str, list[Path]] = {}
    for part in parts:
        folder = "" if job.one_table else split_folder(job, job.splits[part.split].name)
        name = "/".join(filter(None, (folder, f"metadata.{suffix}")))
        by_table.setdefault(name, []).append(piece_path(job, part))
    digests = {}
    for name, pieces in by_table.items():
        partial_file = job.out / WORK_FOLDER / "table.partial"
        (_join_lines if suffix == "jsonl" else _join_parquet)(pieces, partial_file)
        digests[name] = file_digest(partial_file)
        (job.out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial_file, job.out / name)
    return digests


def _join_lines(pieces: Sequence[Path], target: Path) -> None:
    with open(target, "wb") as whole:
        for piece in pieces:
            with open(piece, "rb") as file:
                shutil.copyfileobj(file, whole)


def _join_parquet(pieces: Sequence[Path], target: Path) -> None:
    with parquet_writer(target, pq.read_schema(pieces[0])) as writer:
        for piece in pieces:
            with pq.ParquetFile(piece) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(table, row_group_size=max(1, len(table)))


def write_skipped(job: Job, records: Sequence[tuple[Part, Record]]) -> dict[str, str]:
    """List every row that is not in the output, in ``skipped.jsonl``: those that the reader dropped, then by split.

    Returns:
        The file and its SHA-256; empty, and no file, where no row was skipped.
    """
    lines = [_line(split, row) for split, row in dropped_rows(job)]
    lines += [_line(job.splits[part.split].name, row) for part, record in records for row in record.skipped]
    target = job.out / SKIPPED
    if not lines:
        target.unlink(missing_ok=True)
        return {}
    partial_file = job.out / WORK_FOLDER / "skipped.partial"
    partial_file.write_text("".join(lines), encoding="utf-8")
    os.replace(partial_file, target)
    return {SKIPPED: file_digest(target)}


def dropped_rows(job: Job) -> list[tuple[str | None, SkippedRow]]:
    """The rows that never were in the data sets, each once: splits of one table share their list."""
    found: dict[SkippedRow, str | None] = {}
    for split in job.splits:
        for row in split.dataset.skipped:
            found[row] = None if row in found else split.name
    return [(split, row) for row, split in found.items()]


def _line(split: str | None, row: SkippedRow) -> str:
    value = {"split": split, "row": row.row, "source": row.source, "reason": row.reason}
    return json.dumps(value, ensure_ascii=False) + "\n"


def write_checksums(out: Path, files: Mapping[str, str]) -> None:
    """Write ``checksums.sha256``, which ``sha256sum -c`` reads."""
    partial_file = out / WORK_FOLDER / "checksums.partial"
    partial_file.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(files.items())), encoding="utf-8")
    os.replace(partial_file, out / CHECKSUMS)
