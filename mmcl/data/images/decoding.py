"""Bytes, files, PIL images and arrays to upright RGB tensors."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmcl.errors import DataError, ShapeError

_JPEG_MODES = ("RGB", "L")  # torchvision's JPEG decoder equals Pillow's on these; CMYK and others go to Pillow
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


def decode_image(data: bytes, *, source: str) -> Tensor:
    """Decode one encoded image.

    JPEG goes through torchvision (no copy through Python), everything else through Pillow. The EXIF orientation is
    applied, transparency is laid over white, 16-bit grey keeps its upper 8 bits, an animation gives its first frame.

    Args:
        data: the encoded file (JPEG, PNG, WebP, GIF, BMP, TIFF ... whatever Pillow opens).
        source: where the bytes come from, for the message.

    Returns:
        uint8 (3, h, w), RGB.

    Raises:
        DataError: empty, truncated or corrupt data, no image at all, or more pixels than Pillow's bomb limit.
    """
    if not data:
        raise DataError(f"{source}: the image is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone, and refuses decompression bombs
            if image.format == "JPEG" and image.mode in _JPEG_MODES:
                return _decode_jpeg(data)
            return _pil_to_tensor(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost any type on broken input
        raise DataError(f"{source}: {_reason(error)}") from error


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


def _decode_jpeg(data: bytes) -> Tensor:
    # torchvision.io registers its operators for seconds; programs that decode no JPEG do not wait for it.
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return decode_jpeg(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)


def _pil_to_tensor(image: Image.Image) -> Tensor:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    image = ImageOps.exif_transpose(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """32-bit integers and floats carry no scale; take the smallest usual one that holds them: 1, 255 or 65535."""
    values = np.nan_to_num(pixels.astype(np.float64))
    highest = values.max(initial=0)
    scale = 255 / 65535 if highest > 255 else 255 if pixels.dtype.kind == "f" and highest <= 1 else 1
    return np.clip(values * scale, 0, 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: {error}"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"the image cannot be decoded ({type(error).__name__}: {text[-200:]})"
