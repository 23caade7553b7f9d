"""Smaller copies of encoded images."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from mmcl.data.images.decoding import decode_image
from mmcl.errors import DataError

JPEG_QUALITY = 95
_DRAFT_FACTOR = 2  # a JPEG is decoded at the smallest scale that is still twice what is wanted: Lanczos does the rest
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def shrink(data: bytes, side: int, *, source: str) -> bytes:
    """The image with its shorter side ``side`` pixels long, in the same format; as it came where that is no smaller.

    Args:
        data: an encoded image.
        side: wanted length of the shorter side in pixels, at least 1; images are never enlarged.
        source: where the bytes come from, for messages.

    Returns:
        Encoded bytes. Resampled by Lanczos' filter; the EXIF orientation is applied, and no metadata but the colour
        profile is kept. JPEG and WebP have quality 95, PNG stays PNG with its transparency; what is none of these
        becomes PNG. Palettes become colours, 16 bits the upper 8 (as mmcl reads them), an animation its first frame.

    Raises:
        DataError: the image cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if min(image.size) <= side:
                return data
            return _encode(_resized(image, side), image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost any type on broken input
        decode_image(data, source=source)  # says it better, where it fails too
        raise DataError(f"{source}: the image cannot be resized ({type(error).__name__}: {error})") from error


def _resized(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        image.draft(image.mode, tuple(round(length * scale * _DRAFT_FACTOR) for length in image.size))
    upright = ImageOps.exif_transpose(_plain_mode(image))
    return upright.resize(_size(image_size=upright.size, side=side), Image.Resampling.LANCZOS)


def _size(*, image_size: tuple[int, int], side: int) -> tuple[int, int]:
    short = min(image_size)
    width, height = (side if length == short else round(length * side / short) for length in image_size)
    return width, height


def _plain_mode(image: Image.Image) -> Image.Image:
    """The image in a mode that can be resampled and stored: L, LA, RGB or RGBA."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        file = io.BytesIO()
        image.save(file, "TIFF")
        pixels = decode_image(file.getvalue(), source="image").numpy().transpose(1, 2, 0)
        return Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode == "1":
        return image.convert("L")
    has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
    return image.convert("RGBA" if has_alpha else "RGB")


def _encode(image: Image.Image, original: Image.Image) -> bytes:
    file = io.BytesIO()
    profile = original.info.get("icc_profile") if original.mode in ("L", "RGB", "RGBA", "LA") else None
    kind = original.format if original.format in ("JPEG", "WEBP") else "PNG"
    image.info.clear()  # nothing of the old file's metadata goes into the new one
    if kind == "PNG":
        image.save(file, kind, icc_profile=profile)
    else:
        image.save(file, kind, quality=JPEG_QUALITY, icc_profile=profile)
    return file.getvalue()
