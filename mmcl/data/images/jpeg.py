"""JPEG through libjpeg-turbo: exactly Pillow's pixels in less time, or an image of half the size in less still."""

from __future__ import annotations

import io
from typing import NamedTuple

import simplejpeg
import torch
from PIL import Image
from torch import Tensor

from mmcl.data.images.orientation import orientation_of, upright

REDUCTIONS = (1, 2, 4, 8)  # the powers of two that libjpeg-turbo can divide an image's size by while it decodes
_START = b"\xff\xd8\xff"
_COLORS = ("YCbCr", "RGB", "Gray")  # CMYK and YCCK need Pillow's conversion
_APP1, _SCAN = 0xE1, 0xDA  # markers: of EXIF and XMP data, and of the pixels
_MAY_HOLD_ORIENTATION = (b"Exif\x00\x00", b"tiff:Orientation")  # where Pillow looks for it: EXIF, then XMP


class JpegHeader(NamedTuple):
    """What a JPEG says of itself before its pixels.

    Attributes:
        height, width: as the image is to be seen.
        orientation: 1 to 8, as EXIF numbers them.
    """

    height: int
    width: int
    orientation: int


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """The header of a JPEG; None where the data are none, or one that Pillow has to decode."""
    if data[:3] != _START:
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # uncommon sampling, or damage
        return None
    if colors not in _COLORS:
        return None
    orientation = 1
    if _may_be_turned(data):
        try:
            with Image.open(io.BytesIO(data)) as image:
                orientation = orientation_of(image)
        except (OSError, SyntaxError, ValueError):
            return None  # Pillow says what is wrong with it
    return JpegHeader(height, width, orientation) if orientation < 5 else JpegHeader(width, height, orientation)


def _may_be_turned(data: bytes) -> bool:
    """Whether a segment before the pixels may hold an orientation. A walk from marker to marker reads few bytes."""
    place = 2
    while place + 3 < len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SCAN:
            return False
        if marker == 0xFF:  # padding
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _APP1 and any(mark in data[place : place + 2 + length] for mark in _MAY_HOLD_ORIENTATION):
            return True
        place += 2 + length
    return True  # not as it should be: Pillow looks


def decode_jpeg(data: bytes, header: JpegHeader, *, reduction: int = 1) -> Tensor | None:
    """Decode a JPEG, upright.

    Args:
        data: the file.
        header: its header.
        reduction: one of ``REDUCTIONS``. Above 1 the inverse DCT gives each block fewer pixels, those that Pillow's
            ``draft`` gives: less work, and not the pixels that a resize of the whole image would give.

    Returns:
        uint8 (3, ceil(h / reduction), ceil(w / reduction)), RGB; memory is (h, w, 3). None where libjpeg-turbo finds
        fault with the data: Pillow accepts some of it, and words the rest.
    """
    stored = (header.height, header.width) if header.orientation < 5 else (header.width, header.height)
    smallest = [-(-side // reduction) if reduction > 1 else 0 for side in stored]
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=smallest[0], min_width=smallest[1])
    except ValueError:
        return None
    return upright(torch.from_numpy(pixels).permute(2, 0, 1), header.orientation)
