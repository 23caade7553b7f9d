"""The pictures of the emoji data set: cut out, laid on a ground, and kept as WebP."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from mmcl.errors import DataError

ALPHA_FLOOR = 8  # pixels fainter than this (of 255) are no part of the picture
FLAT = 8.0  # standard deviation of all values below which nothing can be told from the ground: white on white
GREY = 128
WEBP_QUALITY = 92
_WEBP_METHOD = 6  # the slowest, smallest


def emoji_picture(path: Path) -> bytes:
    """A picture of the packages as it stands in the data set.

    Args:
        path: a PNG with transparency, 64 by 64 pixels.

    Returns:
        WebP, RGB: what of the picture is visible, on white, or on grey where it is all but white itself (the white
        squares of one style); the transparent margin is cut off.

    Raises:
        DataError: the file is missing, no image, or nothing in it is visible.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or 'not an image that can be read'}") from error
    box = picture.getchannel("A").point([0] * (ALPHA_FLOOR + 1) + [255] * (255 - ALPHA_FLOOR)).getbbox()
    if box is None:
        raise DataError(f"{path}: nothing in the picture is visible")
    picture = picture.crop(box)
    laid = _on_ground(picture, 255)
    if np.asarray(laid).std() < FLAT:
        laid = _on_ground(picture, GREY)
    file = io.BytesIO()
    laid.save(file, "WEBP", quality=WEBP_QUALITY, method=_WEBP_METHOD)
    return file.getvalue()


def _on_ground(picture: Image.Image, grey: int) -> Image.Image:
    ground = Image.new("RGB", picture.size, (grey, grey, grey))
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground
