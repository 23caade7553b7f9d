"""What is known of one image: its file's header, whether it can be decoded, its hashes and brightness."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mmcl.data.dataset import ImageStore
from mmcl.data.images.decoding import decode_reduced, largest_reduction
from mmcl.data.images.encoded import encoded_image
from mmcl.data.images.orientation import orientation_of
from mmcl.data.scan.perceptual_hash import perceptual_hash, small_grey
from mmcl.errors import DataError

FACTS = pa.schema(
    {
        "problem": pa.string(),
        "format": pa.string(),
        "mode": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "num_bytes": pa.int64(),
        "frames": pa.int32(),
        "rotated": pa.bool_(),
        "digest": pa.binary(16),
        "phash": pa.uint64(),
        "mean": pa.float32(),
        "std": pa.float32(),
    }
)
_HEAD = 16  # bytes by which Pillow's plugins know their formats
_ENOUGH = 256  # pixels of the shorter side, eight times the hash's picture


def image_facts(images: ImageStore, row: int) -> dict[str, Any]:
    """All of ``FACTS`` that can be known of one image; what cannot is left out.

    Args:
        images: the store.
        row: which of its images.

    Returns:
        ``problem`` (why it cannot be read, without the file's name) stands there only where there is one; ``width`` and
        ``height`` are the file's, before its orientation is applied; ``mean`` and ``std`` are of the grey pixels that
        a model would see (upright, transparency over white), in [0, 255]. Where both sides have 512 pixels or more,
        hash, mean and standard deviation are those of a JPEG decoded at a part of its size: bits may differ.
    """
    place = images.describe(row)
    try:
        data = encoded_image(images, row)
    except DataError as error:
        return {"problem": _reason(error, place)}
    facts: dict[str, Any] = {"num_bytes": len(data), "digest": hashlib.blake2b(data, digest_size=16).digest()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of (large pictures, odd EXIF) is judged from the facts
        facts |= header_facts(data)
        try:
            pixels, _ = decode_reduced(data, source=place, reduction=_reduction)
        except DataError as error:
            return facts | {"problem": _reason(error, place)}
    picture = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    mean, std = _mean_and_std(picture.convert("L").histogram())
    return facts | {"phash": perceptual_hash(small_grey(picture)), "mean": mean, "std": std}


def header_facts(data: bytes) -> dict[str, Any]:
    """Format, mode, size, frames and orientation as an encoded image's header has them; nothing is decoded.

    Args:
        data: the file. Of what Pillow does not know nothing is returned, of a damaged header what could be read.
    """
    facts: dict[str, Any] = {}
    try:
        image = _open(data)
        if image is None:
            return facts
        facts |= {"format": image.format, "mode": image.mode, "width": image.width, "height": image.height}
        facts["rotated"] = _may_be_turned(image, data) and orientation_of(image) != 1
        facts["frames"] = int(getattr(image, "n_frames", 1))
    except MemoryError:
        raise
    except Exception:  # plugins raise almost any type on broken input; decoding then says what is wrong
        return facts
    return facts


def _open(data: bytes) -> Image.Image | None:
    """``Image.open`` that tells the size of decompression bombs too, which it refuses to open."""
    try:
        return Image.open(io.BytesIO(data))
    except Image.UnidentifiedImageError:
        return None
    except Image.DecompressionBombError:
        for factory, accept in Image.OPEN.values():
            if accept is None or accept(data[:_HEAD]) is not True:
                continue
            return factory(io.BytesIO(data), "")
    return None


def _may_be_turned(image: Image.Image, data: bytes) -> bool:
    """Whether it is worth looking: in a PNG, Pillow would decode all pixels to look for EXIF data behind them."""
    return image.format != "PNG" or b"eXIf" in data or b"exif" in data


def _reduction(height: int, width: int) -> int:
    """A large JPEG is decoded at a part of its size: its hash is of 32 x 32 pixels in the end."""
    return largest_reduction(height, width, at_least=(_ENOUGH, _ENOUGH))


def _mean_and_std(histogram: list[int]) -> tuple[float, float]:
    counts, values = np.asarray(histogram, dtype=np.float64), np.arange(256)
    mean = counts @ values / counts.sum()
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))


def _reason(error: DataError, place: str) -> str:
    return str(error).removeprefix(f"{place}: ")
