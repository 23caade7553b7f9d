"""What a folder knows of the work in it: what is written, of which data, and whether it is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcl.data.sources.tables.tables import TABLE_SUFFIXES
from mmcl.data.writing.job import FOLDER_ROWS, Job, mean_row_bytes
from mmcl.data.writing.joining import CHECKSUMS
from mmcl.data.writing.parts import WORK_FOLDER
from mmcl.errors import ConfigError, DataError

_LAYOUT = 1  # of the manifest; folders begun by another layout are not gone on with
_MANIFEST = "manifest.json"
_SPARE = 1.05  # headers, padding, tables and checksums beside the images


def begin_work(job: Job, options: dict[str, Any], source: str, shard_mb: int) -> dict[str, Any]:
    """The manifest of this work: the one in the folder, when it is the same work; else a new one, in a free folder.

    Args:
        job: what is to be written.
        options: format and what else the files depend on.
        source: the data's fingerprint.
        shard_mb: about how large a shard is; settles ``rows_per_part``.

    Raises:
        ConfigError: the folder holds something else, or was begun with other options or from other data.
        DataError: no space, no image that can be read, or the manifest is damaged.
    """
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


def is_finished(out: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the work was done to the end, and all its files are still there."""
    if manifest.get("counts") is None:
        return False
    try:
        lines = (out / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return all((out / line[66:]).is_file() for line in lines)


def finish_work(out: Path, manifest: dict[str, Any]) -> None:
    """Write down that all is done; what was kept to go on from is not needed any more."""
    _write_manifest(out / WORK_FOLDER / _MANIFEST, manifest)
    for path in (out / WORK_FOLDER).glob("part-*"):
        path.unlink()


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    partial_file = path.with_suffix(".partial")
    partial_file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    os.replace(partial_file, path)
