"""Where the images of a table lie, when they are not where its paths start from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.logs import get_logger

log = get_logger(__name__)

_LONGEST_PATH = 4096


def first_with(folders: Iterable[Path], name: str) -> Path | None:
    """The first of some folders that holds a file of this name; None where none does."""
    return next((folder for folder in folders if _is_file(folder / name)), None)


def image_root(table: pa.Table, column: str | None, folder: Path, *, source: str) -> Path:
    """The folder that a table's relative paths start from: its own, or the one folder in it that holds the first image.

    Args:
        table: rows with a column of paths.
        column: that column; None or another kind of column gives ``folder``.
        folder: the table's own.
        source: the table, for the log line that names another folder than ``folder``.
    """
    if column not in table.column_names or not _is_text(table[column].type):
        return folder
    given = table[column].filter(pc.fill_null(pc.match_substring_regex(table[column], r"\S"), False))
    first = given[0].as_py() if len(given) else ""
    if not first or len(first) > _LONGEST_PATH or "://" in first or os.path.isabs(first) or _is_file(folder / first):
        return folder
    inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    found = [Path(path) for path in inside if _is_file(Path(path) / first)]
    if len(found) != 1:
        return folder
    log.warning("%s: its images are in %s; name another folder with data.images", source, found[0])
    return found[0]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
