"""Every finding in a file: JSON lines, CSV or Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from mmcl.errors import ConfigError

LIST_SUFFIXES = (".jsonl", ".csv", ".parquet")
_AT_A_TIME = 8192


def check_list_file(path: Path | None) -> None:
    """Refuse a list that could not be written, before the work is done.

    Raises:
        ConfigError: another suffix than ``LIST_SUFFIXES``, a folder, or no folder to write it in.
    """
    if path is None:
        return
    if path.suffix.lower() not in LIST_SUFFIXES or path.is_dir():
        raise ConfigError(f"--list {path}: want a file that ends in {', '.join(LIST_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--list {path}: there is no folder {path.absolute().parent}; make it first")


def write_findings(findings: pa.Table, path: str | Path) -> Path:
    """Write the findings of an ``AuditReport``, whole or not at all.

    Args:
        findings: with the columns of ``FINDINGS``.
        path: ``.jsonl``: an object a line; ``.csv``: related rows as JSON in their cell; ``.parquet``.

    Raises:
        ConfigError: another suffix, or it cannot be written there.
    """
    path = Path(path)
    check_list_file(path)
    partial = path.with_name(f".{path.name}.part")
    try:
        if path.suffix.lower() == ".parquet":
            parquet.write_table(findings, partial)
        elif path.suffix.lower() == ".csv":
            _write_csv(findings, partial)
        else:
            with partial.open("w", encoding="utf-8") as file:
                for row in rows_of(findings):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise ConfigError(f"--list {path} cannot be written: {error.strerror or error}; name another file") from error
    return path


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as Python objects, a bounded number at a time."""
    for batch in table.to_batches(max_chunksize=_AT_A_TIME):
        yield from batch.to_pylist()


def _write_csv(findings: pa.Table, path: Path) -> None:
    place = findings.column_names.index("related")
    flat = findings.schema.set(place, pa.field("related", pa.string()))
    with csv.CSVWriter(path, flat) as writer:
        for batch in findings.to_batches(max_chunksize=_AT_A_TIME):
            related = pa.array(
                [json.dumps(cell, ensure_ascii=False) for cell in batch["related"].to_pylist()], pa.string()
            )
            columns = [related if number == place else column for number, column in enumerate(batch.columns)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))
