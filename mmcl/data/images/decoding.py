"""Bytes, files, PIL images and arrays to upright RGB tensors."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmcl.data.images.jpeg import REDUCTIONS, decode_jpeg, read_jpeg_header
from mmcl.data.images.orientation import orientation_of, upright
from mmcl.errors import DataError, ShapeError

_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
# Formats that Pillow may lack a decoder of: the bytes 4 to 12 of a file -> its name.
_ISO_MEDIA = {b"ftypheic": "HEIC", b"ftypheix": "HEIC", b"ftypmif1": "HEIF", b"ftypavif": "AVIF", b"ftypavis": "AVIF"}


def decode_image(data: bytes, *, source: str) -> Tensor:
    """Decode one encoded image, whatever its file is called.

    JPEG goes through libjpeg-turbo, with Pillow's own pixels, everything else through Pillow. The EXIF orientation is
    applied, transparency is laid over white, 16-bit channels keep their upper 8 bits, an animation gives its first
    frame. An image of more than twice ``PIL.Image.MAX_IMAGE_PIXELS`` (179 million) pixels is refused unread; who
    trusts the data sets that number, or None, before loading.

    Args:
        data: the encoded file (JPEG, PNG, WebP, GIF, BMP, TIFF ... whatever Pillow opens).
        source: where the bytes come from, for the message.

    Returns:
        uint8 (3, h, w), RGB.

    Raises:
        DataError: empty, truncated or corrupt data, no image at all, or more pixels than Pillow's bomb limit.
    """
    return decode_reduced(data, source=source)[0]


def decode_reduced(
    data: bytes, *, source: str, reduction: Callable[[int, int], int] = lambda height, width: 1
) -> tuple[Tensor, tuple[int, int]]:
    """Decode one encoded image, a JPEG at an eighth, a quarter or half of its size where that is enough.

    Args:
        data: the encoded file.
        source: where the bytes come from, for the message.
        reduction: (height, width) of the upright image -> what a JPEG's size may be divided by: 1, 2, 4 or 8.

    Returns:
        uint8 (3, h, w), RGB, and the height and width that the whole image has.

    Raises:
        DataError: as ``decode_image``.
    """
    if not data:
        raise DataError(f"{source}: the image is empty (0 bytes)")
    try:
        header = read_jpeg_header(data)
        if header is not None:
            size = (header.height, header.width)
            _check_size(*size)
            pixels = decode_jpeg(data, header, reduction=reduction(*size))
            if pixels is not None:
                return pixels, size
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone, and refuses decompression bombs
            pixels = _pil_to_tensor(image)
        return pixels, (pixels.shape[1], pixels.shape[2])
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost any type on broken input
        raise DataError(f"{source}: {_reason(error, data)}") from error


def largest_reduction(height: int, width: int, *, at_least: tuple[int, int]) -> int:
    """The largest of 1, 2, 4 and 8 that leaves ``height`` x ``width`` pixels at least as many both ways.

    Args:
        height, width: of the part of the image that is wanted, in pixels of the whole image.
        at_least: height and width that it is brought to.
    """
    fitting = [by for by in REDUCTIONS if height >= by * at_least[0] and width >= by * at_least[1]]
    return max(fitting, default=1)


def to_image_tensor(item: Any, *, source: str | None = None) -> Tensor:
    """Turn what people hold as "an image" into one tensor.

    Args:
        item: a path (str or Path), encoded bytes, a ``PIL.Image``, a uint8 tensor (3, h, w) or array (h, w, 3).
        source: what to call it in messages; by default the path, or the type.

    Returns:
        uint8 (3, h, w), RGB.

    Raises:
        DataError: the file is missing or cannot be decoded.
        ShapeError: a tensor, array or object that is none of the above.
    """
    if isinstance(item, str | Path):
        return decode_image(read_file(Path(item).expanduser()), source=source or str(item))
    if isinstance(item, bytes | bytearray | memoryview):
        return decode_image(bytes(item), source=source or "image bytes")
    if isinstance(item, Image.Image):
        try:
            return _pil_to_tensor(item)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reads the file only now
            raise DataError(f"{source or 'PIL image'}: {_reason(error)}") from error
    if isinstance(item, Tensor):
        if item.dtype == torch.uint8 and item.ndim == 3 and item.shape[0] == 3 and item.numel():
            return item.cpu()
        raise ShapeError(f"an image tensor is uint8 (3, h, w), got {item.dtype} {tuple(item.shape)}")
    if isinstance(item, np.ndarray):
        if item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3 and item.size:
            return torch.from_numpy(np.ascontiguousarray(item.transpose(2, 0, 1)))
        raise ShapeError(f"an image array is uint8 (h, w, 3), got {item.dtype} {item.shape}")
    raise ShapeError(f"no image: a {type(item).__name__}; give a path, bytes, a PIL image, a tensor or an array")


def read_file(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        DataError: the file is missing or may not be read; the message names it.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _check_size(height: int, width: int) -> None:
    """Refuse what Pillow refuses."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > 2 * limit:
        raise Image.DecompressionBombError(f"{width} x {height}; the limit is {2 * limit}")


def _pil_to_tensor(image: Image.Image) -> Tensor:
    image.load()  # TIFFs are turned while they are read, and then say that they are upright
    orientation = orientation_of(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return upright(torch.from_numpy(np.array(image)).permute(2, 0, 1), orientation)


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """32-bit integers and floats carry no scale; take the smallest usual one that holds them: 1, 255 or 65535."""
    values = np.nan_to_num(pixels.astype(np.float64))
    highest = values.max(initial=0)
    scale = 255 / 65535 if highest > 255 else 255 if pixels.dtype.kind == "f" and highest <= 1 else 1
    return np.clip(values * scale, 0, 255).astype(np.uint8)


def _reason(error: Exception, data: bytes = b"") -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return _no_image(data)
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: {error}"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"the image cannot be decoded ({type(error).__name__}: {text[-200:]})"


def _no_image(data: bytes) -> str:
    """Why Pillow knows no image in the data."""
    name = _ISO_MEDIA.get(bytes(data[4:12]))
    if name is not None:
        return f"in {name} format, which this Pillow cannot decode; convert it to JPEG, PNG or WebP"
    start = data[:40]
    if start and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return f"not an image that Pillow can identify, but text: {start.decode('ascii')!r}"
    return "not an image that Pillow can identify"
