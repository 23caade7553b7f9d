"""Images written into a table as base64 text, beside or instead of file names."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.images.decoding import read_file
from mmcl.data.images.encoded import EncodedImages
from mmcl.errors import DataError

# How a data URI begins, and how JPEG, PNG, GIF, WebP, BMP and TIFF files do in base64. "/9j/" may begin a path as well.
_BEGINNING = r"^\s*(?i:data:image/)|^(/9j/|iVBORw0KGgo|R0lGOD|UklGR|Qk|SUkqA|TU0AK)"
_WRITTEN_SO = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")  # no dot: file names have one
_URI = re.compile(r"\s*data:image/", re.IGNORECASE)
_STANDARD = str.maketrans("-_", "+/")
_SHORTEST = 44  # characters of the smallest image there is, a GIF of one pixel
_LONGEST_PATH = 4096
_TRIED_AS_FILES = 16


def find_base64(cells: pa.ChunkedArray, *, root: str | Path) -> np.ndarray:
    """(n,) bool: the cells that hold an image as base64, or as a ``data:image/...;base64,`` URI; the others are paths.

    A cell is base64 when it is written in that alphabet alone (which has no dot), and decodes to what begins as an
    image file or is longer than a path can be. Where one of the first such cells names a file that exists, all cells
    are paths.

    Args:
        cells: (n,) strings; null is false.
        root: where relative paths would start.
    """
    lengths = pc.fill_null(pc.binary_length(cells), 0)
    maybe = pc.match_substring_regex(cells, _BEGINNING)
    maybe = pc.and_(pc.fill_null(maybe, False), pc.greater_equal(lengths, _SHORTEST))
    maybe = pc.or_(maybe, pc.greater(lengths, _LONGEST_PATH)).combine_chunks()
    found = np.array(maybe.to_numpy(zero_copy_only=False))
    rows = np.flatnonzero(found)
    if not len(rows):
        return found
    for row in rows[:_TRIED_AS_FILES].tolist():
        text = cells[row].as_py()
        if len(text) <= _LONGEST_PATH and "\0" not in text and _is_file(os.path.join(root, text)):
            return np.zeros(len(found), dtype=bool)
    # One by one: a column of large images is not copied.
    found[rows] = [_is_base64(cells[row].as_py()) for row in rows.tolist()]
    return found


def _is_file(path: str) -> bool:
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):  # a name too long for the system
        return False


def _is_base64(text: str) -> bool:
    if _URI.match(text):
        return True
    if not _WRITTEN_SO.fullmatch(text):
        return False
    if len(text) > _LONGEST_PATH:
        return True
    try:
        return _begins_as_image(decode_base64(text, source=""))
    except DataError:
        return False


def _begins_as_image(data: bytes) -> bool:
    """Whether a small file is an image by its first bytes; of the weaker marks, more than the mark is looked at."""
    if data.startswith(b"\xff\xd8\xff"):
        return data[3] >= 0xC0 and b"\xff\xd9" in data
    if data.startswith(b"BM"):
        return data[6:10] == bytes(4)
    if data.startswith(b"RIFF"):
        return data[8:12] == b"WEBP"
    return data.startswith((b"\x89PNG\r\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"))


def decode_base64(text: str, *, source: str) -> bytes:
    """The bytes of base64 text (either alphabet, padded or not, with or without line breaks) or of a data URI.

    Raises:
        DataError: the text is no base64.
    """
    if _URI.match(text):
        head, comma, text = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise DataError(f"{source}: a data URI without ';base64,': {head[:60]!r}")
    text = "".join(text.split()).rstrip("=").translate(_STANDARD)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{source}: the image is no base64 ({error})") from error


class Base64Images(EncodedImages):
    """Images as base64 text in arrow memory, decoded one by one; cells that are none name files.

    Args:
        cells: (n,) strings.
        is_base64: (n,) bool, as ``find_base64`` gives it.
        root: the folder that file names start from.
        source: where the column comes from, for messages.
        rows: which rows of ``cells`` make up the store, in order; all by default.
    """

    def __init__(
        self,
        cells: pa.ChunkedArray,
        is_base64: np.ndarray,
        *,
        root: str | Path,
        source: str,
        rows: np.ndarray | None = None,
    ) -> None:
        self.cells, self.is_base64, self.root, self.source = cells, is_base64, str(root), source
        self.rows = np.arange(len(cells), dtype=np.int64) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, row: int) -> bytes:
        """The bytes of image ``row``. Raises DataError when the text is no base64, or the file it names is missing."""
        index = int(self.rows[row])
        text = self.cells[index].as_py()
        if self.is_base64[index]:
            return decode_base64(text, source=self.describe(row))
        return read_file(os.path.join(self.root, text or ""))

    def describe(self, row: int) -> str:
        """The source and row, or the file."""
        index = int(self.rows[row])
        if self.is_base64[index]:
            return f"{self.source}:row {index}"
        return os.path.join(self.root, self.cells[index].as_py() or "")

    def select(self, rows: Sequence[int] | np.ndarray) -> Base64Images:
        """A store of these rows alone, in this order; the text is shared, not copied."""
        chosen = self.rows[np.asarray(rows, dtype=np.int64)]
        return Base64Images(self.cells, self.is_base64, root=self.root, source=self.source, rows=chosen)

    def fingerprint(self) -> str:
        """A hash of the texts."""
        digest = hashlib.sha256()
        for row in self.rows.tolist():
            cell = self.cells[row]
            digest.update(cell.as_buffer() if cell.is_valid else b"")
            digest.update(b"\x1e")
        return digest.hexdigest()
