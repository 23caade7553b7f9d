from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from stored_items import encode

from mmcl.data import decode_image, to_image_tensor
from mmcl.errors import DataError, ShapeError


@pytest.fixture
def smooth() -> Image.Image:
    rows, columns = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([rows * 7, columns * 5, rows + columns], axis=-1).astype(np.uint8))


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_equals_pillow(smooth, mode):
    data = encode(smooth.convert(mode), "JPEG", quality=95)
    decoded = decode_image(data, source="x")
    assert torch.equal(decoded, _pixels(Image.open(io.BytesIO(data))))
    expected = _pixels(smooth.convert(mode))
    assert (decoded.int() - expected.int()).abs().float().mean() < 4
    assert (decoded.int() - expected.flip(2).int()).abs().float().mean() > 20, "control: the mirror image differs"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(smooth, kind):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encode(smooth, kind, exif=exif, **options), source="x")
    assert decoded.shape == (3, 48, 32)
    upright, turned_back = _pixels(smooth.rotate(-90, expand=True)), _pixels(smooth.rotate(90, expand=True))
    assert (decoded.int() - upright.int()).abs().float().mean() < 4
    assert (decoded.int() - turned_back.int()).abs().float().mean() > 20


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_laid_over_white(kind):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = (255, 128, 0)
    decoded = decode_image(encode(Image.fromarray(pixels), kind, lossless=True), source="x")
    assert decoded[:, 0, 0].tolist() == [200, 0, 0]
    assert decoded[:, 0, 2].tolist() == [255, 255, 255]
    assert decoded[:, 0, 1].int().sub(torch.tensor([227, 127, 127])).abs().max() <= 1


def test_palettes_grey_and_sixteen_bits():
    grey = np.array([[0, 100, 255]], np.uint8)
    expected = torch.from_numpy(grey).expand(3, 1, 3)
    high = grey.astype(np.uint16) * 257
    images = {
        "L": Image.fromarray(grey),
        "P": Image.fromarray(grey).convert("P"),
        "I;16": Image.fromarray(high),
        "I": Image.fromarray(high.astype(np.int32)),
        "LA": Image.merge("LA", [Image.fromarray(grey), Image.new("L", (3, 1), 255)]),
    }
    for mode, image in images.items():
        decoded = decode_image(encode(image, "TIFF" if mode == "I" else "PNG"), source="x")
        assert (decoded.int() - expected.int()).abs().max() <= 1, mode
    assert torch.equal(to_image_tensor(Image.fromarray(grey / np.float32(255))), expected)
    one_bit = decode_image(encode(Image.fromarray(grey > 50)), source="x")
    assert one_bit[0].tolist() == [[0, 255, 255]]


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    decoded = decode_image(encode(image, "PNG", transparency=1), source="x")
    assert decoded[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(data, source="x")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_errors(kind):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    data = encode(image, kind)
    assert decode_image(data, source="x").shape == (3, 40, 40)
    for length in (len(data) // 2, 30, 4):
        with pytest.raises(DataError, match=r"^here/x\.img: .*(decoded|identify)"):
            decode_image(data[:length], source="here/x.img")


def test_nonsense_is_an_error():
    with pytest.raises(DataError, match=r"a\.png: the image is empty"):
        decode_image(b"", source="a.png")
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        decode_image(b"<html>404</html>", source="a.png")
    corrupt = bytearray(encode(Image.new("RGB", (64, 64), "red")))
    corrupt[60:80] = bytes(20)
    with pytest.raises(DataError, match=r"a\.png: the image cannot be decoded"):
        decode_image(bytes(corrupt), source="a.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_decompression_bombs_are_refused(monkeypatch, kind):
    data = encode(Image.new("RGB", (100, 100)), kind)
    assert decode_image(data, source="x").shape == (3, 100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="x: too many pixels"):
        decode_image(data, source="x")


def test_whatever_people_hold_as_an_image(tmp_path, smooth):
    data = encode(smooth)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    expected = _pixels(smooth)
    array = np.array(smooth)
    for item in (path, str(path), data, bytearray(data), smooth, smooth.convert("RGBA"), expected, array):
        assert torch.equal(to_image_tensor(item), expected)
    assert not torch.equal(to_image_tensor(array[::-1]), expected)
    assert torch.equal(to_image_tensor(Image.open(path)), expected)


@pytest.mark.parametrize(
    "item",
    [torch.zeros(3, 4, 4), torch.zeros(4, 4, 3, dtype=torch.uint8), np.zeros((4, 4)), np.zeros((4, 4, 3)), 3, None],
)
def test_what_is_no_image(item):
    with pytest.raises(ShapeError, match="image"):
        to_image_tensor(item)


def test_missing_and_truncated_files(tmp_path, smooth):
    with pytest.raises(DataError, match=r"none\.png: no such image file"):
        to_image_tensor(tmp_path / "none.png")
    with pytest.raises(DataError, match="Is a directory"):
        to_image_tensor(tmp_path)
    (tmp_path / "cut.png").write_bytes(encode(smooth)[:-30])
    with pytest.raises(DataError, match="PIL image: the image cannot be decoded"):
        to_image_tensor(Image.open(tmp_path / "cut.png"))
