"""The caption files of Flickr8k and Flickr30k: ``results_20130124.token``, ``captions.txt``, ``results.csv``."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pyarrow.compute as pc

from mmcl.data.sources.rows import RawRows
from mmcl.data.sources.tables.csv_lines import read_csv
from mmcl.errors import DataError

_TOKEN_LINE = re.compile(rb"(\xef\xbb\xbf)?[^\t\r\n]+#\d+\t")
_NAMES = re.compile(r"(results.*|captions|.*\.token)\.(csv|txt)|.*\.token", re.IGNORECASE)
_PEEK = 1 << 16
CAPTION_SUFFIXES = (".txt", ".token")


def is_caption_file(path: Path) -> bool:
    """Whether a file is named like one of these and begins like a list of captions."""
    if not _NAMES.fullmatch(path.name):
        return False
    start = _start(path)
    header = start.split(b"\n", 1)[0].lower()
    return _TOKEN_LINE.match(start) is not None or (
        b"image" in header and (b"caption" in header or b"comment" in header)
    )


def read_caption_file(path: Path, *, encoding: str | None = None) -> RawRows:
    """Read lines ``NAME.jpg#0<TAB>caption``, or a table with a header line such as ``image,caption``.

    Raises:
        OSError: the file cannot be opened.
        DataError: it is neither.
    """
    start = _start(path)
    if _TOKEN_LINE.match(start):
        raw = read_csv(path, delimiter="\t", encoding=encoding, header=("file_name", "text"), quotes=False)
        names = pc.replace_substring_regex(raw.table["file_name"], r"#\d+$", "")
        return dataclasses.replace(raw, table=raw.table.set_column(0, "file_name", names))
    if any(mark in start.split(b"\n", 1)[0] for mark in (b",", b"\t", b"|", b";")):
        return read_csv(path, delimiter=",", encoding=encoding)
    raise DataError(
        f"{path}: no list of captions; wanted lines NAME.jpg#0<TAB>caption, or a header line such as image,caption"
    )


def _start(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_PEEK)
