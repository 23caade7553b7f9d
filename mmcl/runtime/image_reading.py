"""Paths, bytes, PIL images and arrays to upright RGB arrays, with the pixels that mmcl's own decoding gives."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from mmcl.errors import DataError, ShapeError

_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_JPEG = b"\xff\xd8\xff"
_JPEG_COLORS = ("YCbCr", "RGB", "Gray")  # Pillow converts CMYK and YCCK
_ORIENTATION = 0x0112  # the tag's number; EXIF 2.32, table 4

# EXIF orientation -> whether rows and columns change places, and the axes of (h, w, 3) turned round afterwards.
_TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (1,)),
    3: (False, (0, 1)),
    4: (False, (0,)),
    5: (True, ()),
    6: (True, (1,)),
    7: (True, (0, 1)),
    8: (True, (0,)),
}


def read_image(item: Any) -> np.ndarray:
    """Turn what people hold as "an image" into one array.

    JPEG goes through libjpeg-turbo, everything else through Pillow. The EXIF orientation is applied, transparency is
    laid over white, 16-bit channels keep their upper 8 bits, an animation gives its first frame.

    Args:
        item: a path, encoded bytes, a ``PIL.Image``, a uint8 array (h, w, 3) or a torch tensor (3, h, w).

    Returns:
        uint8 (3, h, w), RGB.

    Raises:
        DataError: the file is missing or cannot be decoded, or has more pixels than Pillow's bomb limit.
        ShapeError: an array, tensor or object that is none of the above.
    """
    if isinstance(item, str | Path):
        return _decode(_read_file(Path(item).expanduser()), source=str(item))
    if isinstance(item, bytes | bytearray | memoryview):
        return _decode(bytes(item), source="image bytes")
    if isinstance(item, Image.Image):
        try:
            return _from_pil(item)
        except (OSError, SyntaxError, ValueError) as error:  # Pillow reads the file only now
            raise DataError(f"PIL image: {_reason(error)}") from error
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(item, torch.Tensor):
        if item.dtype == torch.uint8 and item.ndim == 3 and item.shape[0] == 3 and item.numel():
            return item.cpu().numpy()
        raise ShapeError(f"an image tensor is uint8 (3, h, w), got {item.dtype} {tuple(item.shape)}")
    if isinstance(item, np.ndarray):
        if item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3 and item.size:
            return item.transpose(2, 0, 1)
        raise ShapeError(f"an image array is uint8 (h, w, 3), got {item.dtype} {item.shape}")
    raise ShapeError(f"no image: a {type(item).__name__}; give a path, bytes, a PIL image, a tensor or an array")


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _decode(data: bytes, *, source: str) -> np.ndarray:
    if not data:
        raise DataError(f"{source}: the image is empty (0 bytes)")
    try:
        pixels = _decode_jpeg(data) if data[:3] == _JPEG else None
        if pixels is not None:
            return pixels
        with Image.open(io.BytesIO(data)) as image:  # refuses decompression bombs
            return _from_pil(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise almost any type on broken input
        raise DataError(f"{source}: {_reason(error)}") from error


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """None where Pillow has to decode it, or to say what is wrong with it."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in _JPEG_COLORS:
            return None
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and height * width > 2 * limit:
            raise Image.DecompressionBombError(f"{width} x {height}; the limit is {2 * limit}")
        with Image.open(io.BytesIO(data)) as image:  # reads the header alone
            orientation = _orientation(image)
        return _upright(simplejpeg.decode_jpeg(data, "RGB"), orientation)
    except (ValueError, OSError, SyntaxError):
        return None


def _from_pil(image: Image.Image) -> np.ndarray:
    image.load()  # TIFFs are turned while they are read, and then say that they are upright
    orientation = _orientation(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.uint16) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_to_eight_bits(np.asarray(image)))
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return _upright(np.array(image), orientation)


def _to_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """32-bit integers and floats carry no scale; the smallest usual one that holds them is taken: 1, 255 or 65535."""
    values = np.nan_to_num(pixels.astype(np.float64))
    highest = values.max(initial=0)
    scale = 255 / 65535 if highest > 255 else 255 if pixels.dtype.kind == "f" and highest <= 1 else 1
    return np.clip(values * scale, 0, 255).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged tags raise almost any type; the pixels beside them are whole
        return 1


def _upright(pixels: np.ndarray, orientation: Any) -> np.ndarray:
    """(h, w, 3) as stored -> (3, h, w) as it is to be seen."""
    transposed, axes = _TURNS.get(orientation, (False, ()))
    pixels = pixels.transpose(1, 0, 2) if transposed else pixels
    return (np.flip(pixels, axes) if axes else pixels).transpose(2, 0, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels: {error}"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"the image cannot be decoded ({type(error).__name__}: {text[-200:]})"
