"""File names: from ids that may hold anything to names that are safe everywhere, and extensions by content."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable

from PIL import Image

from mmcl.data.images.decoding import decode_image

MAX_STEM = 96  # with a folder before it and an extension behind it, below the 100 bytes of a plain tar header
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_PLAIN = re.compile(r"[A-Za-z0-9_./\\ -]*")
_IMAGE_ENDING = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|avif|ppm)$", re.IGNORECASE)
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10))}
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}


def safe_stem(identifier: str) -> str:
    """A name of ASCII letters, digits, ``_`` and ``-`` for an id; it is no path, no hidden or reserved name.

    Folders and dots become ``_``. Where more than that is lost (letters of other scripts, a long end), ten digits of
    the id's SHA-1 stand behind it, so that different ids keep different names. An id without any such sign gives "".
    """
    base = _IMAGE_ENDING.sub("", identifier)
    stem = _UNSAFE.sub("_", base).strip("_-")
    if not stem and not base.strip("./\\ _-"):
        return ""
    if _PLAIN.fullmatch(base) is None or len(stem) > MAX_STEM - 12:
        # The room for a number behind it, where two ids still meet, is kept free.
        digest = hashlib.sha1(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:10]
        stem = f"{stem[: MAX_STEM - 24].strip('_-')}-{digest}".lstrip("-")
    return f"_{stem}" if stem.lower() in _RESERVED else stem


def unique_stems(identifiers: Iterable[str | None]) -> list[str]:
    """A safe name for each id, all different even where case does not count; a number goes behind repeated ones.

    Args:
        identifiers: the ids, in order; None, or one without a usable sign, gives the number of its place.

    Example:
        >>> unique_stems(["a/b.png", "A_b", "../../etc/passwd", None])
        ['a_b', 'A_b-2', 'etc_passwd', '00000003']
    """
    taken: set[str] = set()
    last: dict[str, int] = {}
    stems = []
    for place, identifier in enumerate(identifiers):
        base = stem = safe_stem(identifier or "") or f"{place:08d}"
        while stem.lower() in taken:
            last[base.lower()] = last.get(base.lower(), 1) + 1
            stem = f"{base}-{last[base.lower()]}"
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def image_format(data: bytes, *, source: str) -> str:
    """Pillow's name of what the bytes are (``JPEG``, ``PNG`` ...), whatever the file was called.

    Raises:
        DataError: they are no image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format or "PNG"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        decode_image(data, source=source)  # says what is wrong
        raise


def extension(kind: str) -> str:
    """The file name extension, without a dot, of one of Pillow's formats."""
    return _EXTENSIONS.get(kind, kind.lower())
