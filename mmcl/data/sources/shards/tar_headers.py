"""Where the members of a tar archive stand: its headers alone, read straight from the file."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
LARGEST_EXTENDED_HEADER = 1 << 20  # names and attributes; more than this is no header but a damaged size
# name, (mode, uid, gid), size, (mtime), checksum, type, (link name), magic, (version .. devminor), prefix, (padding)
_HEADER = struct.Struct("100s24x12s12x8sc100x6s82x155s12x")
_FILES = (b"0", b"\0", b"7")
_KINDS = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "folder",
    b"6": "pipe",
    b"S": "sparse file",
}
_EXTENDED = (b"x", b"X", b"g", b"L", b"K")
_MORE_SPARSE = (482, 504)  # the byte that says that a map of holes follows: of a header, of such a map
_PAX = re.compile(rb"(\d+) ([^=]+)=")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")  # whatever their size says, no data follows (as in `tarfile`)


class Member(NamedTuple):
    """One member of an archive.

    Attributes:
        name: as in the archive; bytes that are no UTF-8 are written ``\\xff``.
        kind: ``"file"``, or what else it is: symbolic link, folder, device, sparse file ...
        offset, size: where its data stand; ``offset + size`` may lie past the end of a file that was cut short.
    """

    name: str
    kind: str
    offset: int
    size: int


class Damage(NamedTuple):
    """A place where no header could be read, and why."""

    offset: int
    reason: str


class _Said(NamedTuple):
    """What extended headers say of the member that follows."""

    path: bytes | None = None
    size: int | None = None
    sparse: bool = False


class _HeaderError(Exception):
    pass


def walk_headers(file: BinaryIO, file_size: int) -> Iterator[Member | Damage]:
    """The members of a tar archive in order, and the places where it is damaged.

    ustar, GNU long names and base-256 sizes, and pax headers (path and size) are understood: what ``tarfile``, GNU tar
    and bsdtar write. After a damaged header the walk goes on at the next block that is one; ``tarfile`` ends there
    without a word. An archive of no bytes has no members.

    Args:
        file: the archive, opened for reading bytes; a small buffer serves best.
        file_size: its bytes.
    """
    offset, said = 0, _Said()
    while offset < file_size:
        block = _read_at(file, offset, BLOCK)
        if len(block) == BLOCK and not block[0] and not block.strip(b"\0"):
            after = _next_header(file, offset + BLOCK, file_size)
            if after is not None:
                yield Damage(after, "further members stand behind the end mark (joined with cat?) and are not read")
            return
        try:
            name, size, kind = _parse(block)
            start = offset + BLOCK
            if kind in _EXTENDED:
                said = _read_extended(kind, _extended_header(file, start, size), said)
                offset = start + _padded(size)
                continue
        except _HeaderError as error:
            after = _next_header(file, offset + BLOCK, file_size)
            end = file_size if after is None else after
            yield Damage(offset, f"{error}; {end - offset} bytes are passed over")
            offset, said = end, _Said()
            continue
        name = name if said.path is None else said.path
        size = size if said.size is None else said.size
        while kind == b"S" and block[_MORE_SPARSE[start - offset > BLOCK]]:  # maps of holes before the data
            block, start = _read_at(file, start, BLOCK).ljust(BLOCK, b"\0"), start + BLOCK
        what = _kind(kind, name, sparse=said.sparse)
        yield Member(name.rstrip(b"/").decode("utf-8", "backslashreplace"), what, start, size)
        offset = start + (0 if kind in _WITHOUT_DATA or what == "folder" else _padded(size))
        said = _Said()


def _kind(kind: bytes, name: bytes, *, sparse: bool) -> str:
    if sparse:
        return "sparse file"
    if kind == b"\0" and name.endswith(b"/"):
        return "folder"  # the oldest archives have no type for them
    return "file" if kind in _FILES else _KINDS.get(kind, f"member of type {kind!r}")


def _read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _parse(block: bytes) -> tuple[bytes, int, bytes]:
    """(name, size, type) of a header block."""
    if len(block) < BLOCK:
        raise _HeaderError("the shard is cut short inside a header")
    name, size, checksum, kind, magic, prefix = _HEADER.unpack(block)
    if not _is_checksum(block, _octal(checksum)):
        raise _HeaderError("a damaged header (its checksum is wrong)")
    name = name.partition(b"\0")[0]
    if prefix[0] and magic == b"ustar\0":  # GNU headers keep other things there
        name = prefix.partition(b"\0")[0] + b"/" + name
    return name, _number(size), kind


def _is_checksum(block: bytes, checksum: int) -> bool:
    # The sum of all bytes, its own eight taken for blanks. Adler-32 adds bytes up at the speed of C: its lower half is
    # 1 + their sum, modulo 65521.
    field = block[148:156]
    if zlib.adler32(block) & 0xFFFF == (1 + checksum - 256 + sum(field)) % 65521:
        return True
    rest = block[:148] + block[156:]
    return checksum == sum(struct.unpack(f"{len(rest)}b", rest)) + 256  # some old programs added signed bytes


def _octal(field: bytes) -> int:
    text = field.partition(b"\0")[0].strip() or b"0"
    try:
        return int(text, 8)
    except ValueError as error:
        raise _HeaderError(f"a damaged header (no octal number: {text!r})") from error


def _number(field: bytes) -> int:
    """Octal digits, or above 8 GiB a binary number after a byte 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[0] == 0xFF:
        raise _HeaderError("a damaged header (a negative size)")
    return _octal(field)


def _extended_header(file: BinaryIO, offset: int, size: int) -> bytes:
    if size > LARGEST_EXTENDED_HEADER:
        raise _HeaderError(f"a damaged header (an extended header of {size} bytes)")
    text = _read_at(file, offset, size)
    if len(text) < size:
        raise _HeaderError("the shard is cut short inside an extended header")
    return text


def _read_extended(kind: bytes, text: bytes, said: _Said) -> _Said:
    if kind == b"L":
        return said._replace(path=text.partition(b"\0")[0])
    if kind in (b"x", b"X") and any(key in text for key in (b" path=", b" size=", b" GNU.sparse")):
        return _read_pax(text, said)
    return said  # long link targets, and what holds for the whole archive: nothing that is needed here


def _read_pax(text: bytes, said: _Said) -> _Said:
    """``LENGTH key=value\\n`` records."""
    position = 0
    while position < len(text) and text[position] != 0:
        match = _PAX.match(text, position)
        length = int(match[1]) if match else 0
        if match is None or length <= match.end() - position or position + length > len(text):
            raise _HeaderError("a damaged header (malformed pax records)")
        key, value = match[2], text[match.end() : position + length - 1]
        if key == b"path":
            said = said._replace(path=value)
        elif key == b"size" and value.isdigit():
            said = said._replace(size=int(value))
        elif key.startswith(b"GNU.sparse"):
            said = said._replace(sparse=True)
        position += length
    return said


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _next_header(file: BinaryIO, offset: int, file_size: int) -> int | None:
    """The next block that is a ustar or GNU header with a right checksum; None to the end of the file."""
    while offset + BLOCK <= file_size:
        piece = _read_at(file, offset, 1 << 20)
        for start in range(0, len(piece) - BLOCK + 1, BLOCK):
            if piece[start + 257 : start + 262] == b"ustar":
                try:
                    _parse(piece[start : start + BLOCK])
                except _HeaderError:
                    continue
                return offset + start
        offset += max(BLOCK, len(piece) // BLOCK * BLOCK)
    return None
