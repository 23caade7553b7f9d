"""Images decoded without torch: the pixels that mmcl's own decoding gives, whatever the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl.data.images.decoding import to_image_tensor
from mmcl.errors import DataError
from mmcl.runtime.image_reading import read_image


def picture() -> Image.Image:
    rows, columns = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([rows * 7, columns * 5, rows + columns], axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """One of each kind that decoders treat in a way of its own."""
    smooth = picture()
    grey = np.asarray(smooth.convert("L"))
    alpha = smooth.copy()
    alpha.putalpha(Image.fromarray(grey))
    turned = Image.Exif()
    palette = smooth.quantize(16)
    made = {
        "jpeg": encoded(smooth, "JPEG", quality=90),
        "jpeg grey": encoded(smooth.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(smooth.convert("CMYK"), "JPEG"),
        "jpeg progressive": encoded(smooth, "JPEG", progressive=True, subsampling=2),
        "png": encoded(smooth, "PNG"),
        "png alpha": encoded(alpha, "PNG"),
        "png grey alpha": encoded(alpha.convert("LA"), "PNG"),
        "png palette": encoded(palette, "PNG"),
        "png palette, one colour clear": encoded(palette, "PNG", transparency=3),
        "png one bit": encoded(smooth.convert("1"), "PNG"),
        "png 16 bit": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "tiff 32 bit": encoded(Image.fromarray(grey.astype(np.int32) * 200), "TIFF"),
        "tiff float": encoded(Image.fromarray(grey / np.float32(255)), "TIFF"),
        "webp": encoded(smooth, "WEBP"),
        "gif": encoded(palette, "GIF"),
        "bmp": encoded(smooth, "BMP"),
    }
    for orientation in range(2, 9):
        turned[0x0112] = orientation
        made[f"jpeg turned {orientation}"] = encoded(smooth, "JPEG", exif=turned)
    return made | {"png turned": encoded(smooth, "PNG", exif=turned)}


FILES = files()


@pytest.mark.parametrize("kind", FILES)
def test_pixels_are_mmcls(kind: str, tmp_path: Path) -> None:
    data = FILES[kind]
    (tmp_path / "image").write_bytes(data)
    wanted = to_image_tensor(data).numpy()
    for item in (data, bytearray(data), tmp_path / "image", str(tmp_path / "image"), Image.open(io.BytesIO(data))):
        found = read_image(item)
        assert found.dtype == np.uint8
        if isinstance(item, Image.Image):
            wanted = to_image_tensor(Image.open(io.BytesIO(data))).numpy()
        assert np.array_equal(found, wanted), type(item)
    assert not np.array_equal(found, found[:, ::-1])  # a control


def test_arrays_and_tensors() -> None:
    pixels = np.asarray(picture())
    wanted = to_image_tensor(pixels).numpy()
    assert np.array_equal(read_image(pixels), wanted)
    assert np.array_equal(read_image(torch.from_numpy(wanted)), wanted)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff 32 bit"])
def test_broken_files_are_refused_in_one_sentence(kind: str) -> None:
    for data in (FILES[kind][: len(FILES[kind]) // 2], FILES[kind][:9]):
        try:
            wanted = to_image_tensor(data).numpy()
        except DataError:
            with pytest.raises(DataError, match=r"^image bytes: (the image cannot be decoded|not an image)"):
                read_image(data)
        else:
            assert np.array_equal(read_image(data), wanted)


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for kind in ("jpeg", "png"):
        with pytest.raises(DataError, match=r"image bytes: too many pixels"):
            read_image(FILES[kind])
