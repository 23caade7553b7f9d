"""How images are stored: what mmcl reads well, and other programs may not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found

_USUAL_MODES = ("RGB", "L", "RGBA", "P")
_READABLE_AS = {"MPO": "JPEG"}  # a JPEG with further pictures behind it


@cache
def _formats() -> dict[str, str]:
    """Suffix -> the format that Pillow takes it for."""
    from PIL import Image

    return Image.registered_extensions()


def _readable(audited: Audited, mask: pa.ChunkedArray) -> np.ndarray:
    known = pc.and_(pc.fill_null(mask, False), pc.is_null(audited.facts["problem"]))
    return np.flatnonzero(known.to_numpy())


def _unusual_mode(audited: Audited) -> Iterator[Found]:
    modes = audited.facts["mode"]
    usual = pc.is_in(modes, pa.array(_USUAL_MODES))
    rows = _readable(audited, pc.and_(pc.is_valid(modes), pc.invert(usual)))
    yield Found(rows, [f"mode {mode}" for mode in modes.take(rows).to_pylist()])


def _animated(audited: Audited) -> Iterator[Found]:
    rows = _readable(audited, pc.greater(audited.facts["frames"], 1))
    yield Found(rows, [f"{frames} frames" for frames in audited.facts["frames"].take(rows).to_pylist()])


def _rotated(audited: Audited) -> Iterator[Found]:
    yield Found(_readable(audited, audited.facts["rotated"]), "its EXIF data turn it")


def _wrong_extension(audited: Audited) -> Iterator[Found]:
    rows, details = [], []
    formats = audited.facts["format"]
    for row in _readable(audited, pc.is_valid(formats)):
        suffix = os.path.splitext(audited.place(row))[1].rstrip(")").lower()
        found = formats[int(row)].as_py()
        if _formats().get(suffix, found) not in (found, _READABLE_AS.get(found)):
            rows.append(row)
            details.append(f"a {found} file called {suffix}")
    yield Found(np.array(rows, dtype=np.int64), details)


UNUSUAL_MODE = Check(
    "unusual_mode", "note", "keep",
    "Images that are no RGB, grey or palette pictures of 8 bits (CMYK, 16 bits, floats ...). mmcl converts them; "
    "colours of CMYK without a profile may be off, and 16 bits keep their upper 8.",
    _unusual_mode, "pixels",
)  # fmt: skip

ANIMATED = Check("animated_image", "note", "keep", "Animations: the first frame alone is used.", _animated, "pixels")

ROTATED = Check(
    "rotated_image", "note", "keep",
    "Images that their EXIF data turn or mirror. mmcl shows them upright; programs that ignore EXIF do not.",
    _rotated, "pixels",
)  # fmt: skip

WRONG_EXTENSION = Check(
    "wrong_extension", "note", "keep",
    "Files whose name says another format than their content. mmcl goes by the content; other programs may fail.",
    _wrong_extension, "pixels",
)  # fmt: skip
