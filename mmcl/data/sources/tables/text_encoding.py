"""Text that is not UTF-8: which rows, what it probably is instead, and how to read it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mmcl.errors import ConfigError, DataError

_MANY = 2  # rows
_SHOWN_BYTES = 40


def check_encoding(name: str) -> str:
    """The name of an encoding that Python knows.

    Raises:
        ConfigError: there is none of this name.
    """
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise ConfigError(f"encoding={name}: no such encoding; wanted utf-8, cp1252, latin-1, gb18030 ...") from error


def encoding_by_mark(path: Path) -> str | None:
    """The encoding that a file's byte-order mark names; None without a mark, or with that of UTF-8."""
    with open(path, "rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    return "utf-16" if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None


def undecodable_rows(columns: Sequence[pa.ChunkedArray]) -> tuple[np.ndarray, np.ndarray, bytes]:
    """The rows of binary columns whose text is not UTF-8.

    Returns:
        (n,) bool: bad rows; (n,) bool: rows that hold other than ASCII; the first bad cell (empty without one).
    """
    bad = np.zeros(len(columns[0]), dtype=bool)
    beyond_ascii, first = bad.copy(), b""
    for column in columns:
        for row, cell in enumerate(column.to_pylist()):
            if cell is None or cell.isascii():
                continue
            beyond_ascii[row] = True
            try:
                cell.decode()
            except UnicodeDecodeError as error:
                first = first or cell[max(0, error.start - _SHOWN_BYTES // 2) :][:_SHOWN_BYTES]
                bad[row] = True
    return bad, beyond_ascii, first


def refuse_other_encoding(path: Path, bad: np.ndarray, beyond_ascii: np.ndarray, first: bytes, place: str) -> None:
    """Refuse a file that is in another encoding throughout; one with a few damaged rows is none.

    A file is in another encoding when at least two rows and 1 % are not UTF-8, and no row holds correct UTF-8 beyond
    ASCII: such a file would lose just the rows with accents.

    Raises:
        DataError: it is; names the first place, what it would be in Windows' encoding, and what to do.
    """
    count = int(bad.sum())
    if count < _MANY or count * 100 < len(bad) or (beyond_ascii & ~bad).any():
        return
    shown = first.decode("cp1252", errors="replace")
    raise DataError(
        f"{path} is not UTF-8: {count} of {len(bad)} rows, the first at {place} (as cp1252 it reads {shown!r}); name "
        f"its encoding behind the path (?encoding=cp1252), or convert it: iconv -f CP1252 -t UTF-8"
    )


def drop_undecodable(path: Path, table: pa.Table, *, place: Callable[[int], str]) -> tuple[pa.Table, np.ndarray]:
    """Binary columns as text, without the rows that are not UTF-8.

    Args:
        path: the file, for the message.
        table: columns of bytes are taken as text; others are left as they are.
        place: row -> where it stands.

    Returns:
        The table; (n,) bool: the rows that were left out.

    Raises:
        DataError: the file is in another encoding throughout.
    """
    binary = [name for name in table.column_names if _holds_bad_text(table[name])]
    if not binary:
        return _as_strings(table), np.zeros(len(table), dtype=bool)
    bad, beyond_ascii, first = undecodable_rows([table[name] for name in binary])
    refuse_other_encoding(path, bad, beyond_ascii, first, place(int(np.argmax(bad))))
    return _as_strings(table.filter(pa.array(~bad))), bad


def _holds_bad_text(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_binary(column.type):
        return False
    try:
        column.cast(pa.string())
    except pa.ArrowInvalid:
        return True
    return False


def _as_strings(table: pa.Table) -> pa.Table:
    kinds = [pa.string() if pa.types.is_binary(field.type) else field.type for field in table.schema]
    return table.cast(pa.schema(list(zip(table.column_names, kinds))))
