"""Which way up an image is, by its EXIF data."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

_ORIENTATION = 0x0112  # the tag's number; EXIF 2.32, table 4

# Orientation -> whether rows and columns change places, and the axes that are turned round afterwards.
_CHANGES: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}


def orientation_of(image: Image.Image) -> int:
    """The EXIF (or XMP) orientation, 1 to 8; 1, upright, where there is none, or none that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged tags raise almost any type; the pixels beside them are whole
        return 1
    return value if value in _CHANGES else 1


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """Pixels (3, h, w) as they are to be seen: (3, h, w), or (3, w, h) from orientation 5 on."""
    if orientation not in _CHANGES:
        return pixels
    transposed, axes = _CHANGES[orientation]
    pixels = pixels.transpose(1, 2) if transposed else pixels
    return pixels.flip(axes) if axes else pixels
