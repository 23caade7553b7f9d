"""JPEG decoding: Pillow's own pixels, whole or at a part of the size; crops known before anything is decoded."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image, ImageOps
from stored_items import encode
from torchvision.transforms import v2

from mmcl.config import AugmentSection
from mmcl.data.augment.crop import CropBox, RandomCrop
from mmcl.data.augment.images import ImageAugmentation
from mmcl.data.batches.collate import ImagePixels
from mmcl.data.images.decoding import decode_image, decode_reduced, largest_reduction
from mmcl.data.images.files import FileImages
from mmcl.data.images.jpeg import decode_jpeg, read_jpeg_header
from mmcl.errors import DataError
from mmcl.models.towers.preprocessing import ImagePreprocessing


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """131 x 93 pixels: no multiple of a block, with edges and colours."""
    small = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((131, 93), Image.Resampling.BICUBIC)


def pillow(data: bytes) -> torch.Tensor:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_pixels_are_pillows_own(picture: Image.Image, mode: str, sampling: str, progressive: bool) -> None:
    for quality in (20, 90):
        data = encode(picture.convert(mode), "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
        assert torch.equal(decode_image(data, source="x"), pillow(data))
    assert (read_jpeg_header(data) is None) == (mode == "CMYK")
    assert not torch.equal(decode_image(data, source="x"), pillow(encode(picture, "JPEG", quality=20))), "control"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_every_orientation_is_applied(picture: Image.Image, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture, kind, exif=exif)
    found = decode_image(data, source="x")
    assert torch.equal(found, pillow(data))
    assert found.shape[1:] == ((131, 93) if orientation >= 5 else (93, 131))
    assert torch.equal(found, pillow(encode(picture, kind))) == (orientation == 1)
    halved, full = decode_reduced(data, source="x", reduction=lambda height, width: 2)
    assert full == tuple(found.shape[1:])
    if kind == "JPEG":
        draft = Image.open(io.BytesIO(data))
        draft.draft("RGB", (65, 46))
        turned = np.array(ImageOps.exif_transpose(draft))
        assert torch.equal(halved, torch.from_numpy(turned).permute(2, 0, 1))
    else:
        assert torch.equal(halved, found)


def test_an_orientation_in_xmp_and_a_damaged_one(picture: Image.Image) -> None:
    xmp = b'http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta><rdf tiff:Orientation="6"/></x:xmpmeta>'
    plain = encode(picture, "JPEG")

    def with_segment(content: bytes) -> bytes:
        return plain[:2] + b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content + plain[2:]

    turned = with_segment(xmp)
    assert torch.equal(decode_image(turned, source="x"), pillow(turned))
    assert decode_image(turned, source="x").shape == (3, 131, 93)
    for damaged in (b"Exif\x00\x00nonsense", b"Exif\x00\x00MM\x00*\x00\x00\xff\xff", b"Exif\x00\x00"):
        assert torch.equal(decode_image(with_segment(damaged), source="x"), pillow(plain))
    assert torch.equal(decode_image(plain + b"\xff\xd9 something behind the end", source="x"), pillow(plain))


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_image_is_pillows_draft(picture: Image.Image, reduction: int) -> None:
    data = encode(picture, "JPEG", quality=90)
    found = decode_jpeg(data, read_jpeg_header(data), reduction=reduction)
    draft = Image.open(io.BytesIO(data))
    draft.draft("RGB", (131 // reduction, 93 // reduction))
    expected = torch.from_numpy(np.array(draft)).permute(2, 0, 1)
    assert found.shape == (3, -(-93 // reduction), -(-131 // reduction))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(448, 448, 2), (447, 900, 1), (100, 100, 1), (896, 2000, 4), (9000, 9000, 8)]
)
def test_the_largest_reduction_leaves_enough(height: int, width: int, expected: int) -> None:
    assert largest_reduction(height, width, at_least=(224, 224)) == expected


# -- crops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.9, 1.0), (0.75, 1.3333333))])
def test_crops_are_torchvisions(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    theirs, ours = v2.RandomResizedCrop([8, 8], scale, ratio, antialias=True), RandomCrop(scale, ratio)
    boxes = set()
    for seed in range(300):
        height, width = 1 + seed * 37 % 301, 1 + seed * 101 % 403
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = theirs.make_params([torch.empty(3, height, width, dtype=torch.uint8)])
        state = torch.get_rng_state()
        box = ours.draw(height, width, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert box._asdict() == expected
        boxes.add(box)
    assert len(boxes) > 250, "control: seeds differ"


def test_a_box_on_a_smaller_image() -> None:
    assert CropBox(10, 20, 30, 40).on((100, 200), (50, 100)) == CropBox(5, 10, 15, 20)
    assert CropBox(99, 199, 1, 1).on((100, 200), (13, 25)) == CropBox(12, 24, 1, 1)


class Stored:
    """A data set's images alone."""

    def __init__(self, images: FileImages) -> None:
        self.images = images


def photographs(folder: Path) -> FileImages:
    """Pictures of 240 x 320 pixels: two JPEGs and a PNG."""
    noise = torch.randn(3, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 40 + 120
    pixels = torch.nn.functional.interpolate(noise, (240, 320), mode="bicubic").clamp(0, 255).byte()
    names = ["0.jpg", "1.jpg", "2.png"]
    for name, image in zip(names, pixels):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name)
    return FileImages(folder, pa.array(names))


@pytest.mark.parametrize("section", [AugmentSection(crop_scale=(0.9, 1.0)), AugmentSection(flip=1.0), None])
def test_scaled_decoding_gives_nearly_the_same_views(tmp_path: Path, section: AugmentSection | None) -> None:
    images, preprocessing = photographs(tmp_path), ImagePreprocessing((64, 64), resize_to=None if section else 72)
    augmentation = None if section is None else ImageAugmentation(section, preprocessing)
    exact, scaled = (ImagePixels(Stored(images), preprocessing, augmentation, decode=d) for d in ("exact", "scaled"))
    seeds = [5, 6, 7]
    one, other = (pixels(range(3), seeds)[0]["pixel_values"] * 127.5 for pixels in (exact, scaled))
    differences = (one - other).abs().mean(dim=(1, 2, 3))
    assert torch.equal(one[2], other[2]), "a PNG has all its pixels"
    assert (differences[:2] > 0).all(), "control: JPEGs are decoded smaller"
    assert (differences < 3).all()
    assert torch.equal(exact(range(3), seeds)[0]["pixel_values"] * 127.5, one)
    # Where the crop needs every pixel, both are the same.
    large = ImagePreprocessing((200, 200))
    augmentation = None if section is None else ImageAugmentation(section, large)
    exact, scaled = (ImagePixels(Stored(images), large, augmentation, decode=d) for d in ("exact", "scaled"))
    assert torch.equal(*(pixels(range(3), seeds)[0]["pixel_values"] for pixels in (exact, scaled)))


def test_the_training_path_equals_torchvision(tmp_path: Path) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    images, preprocessing = photographs(tmp_path), ImagePreprocessing((64, 64), mean=mean, std=std)
    section = AugmentSection(crop_scale=(0.5, 1.0))
    ours = ImagePixels(Stored(images), preprocessing, ImageAugmentation(section, preprocessing))
    mode = v2.InterpolationMode.BICUBIC
    crop = v2.RandomResizedCrop([64, 64], section.crop_scale, section.crop_ratio, mode, antialias=True)
    views = []
    with torch.random.fork_rng(devices=[]):
        for row in range(3):
            torch.manual_seed(40 + row)
            views.append(crop(pillow(images.encoded(row))))
    expected = v2.functional.normalize(torch.stack(views) / 255, list(mean), list(std))
    found = ours(range(3), [40, 41, 42])[0]["pixel_values"]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not torch.allclose(ours(range(3), [43, 44, 45])[0]["pixel_values"], expected, atol=0.1), "control"


def test_normalising_leaves_its_input_alone() -> None:
    preprocessing = ImagePreprocessing((4, 4), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    for images in (torch.full((1, 3, 4, 4), 51, dtype=torch.uint8), torch.full((1, 3, 4, 4), 51.0)):
        kept = images.clone()
        found = preprocessing.normalize(images)
        assert torch.equal(images, kept)
        torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([-1.5, -2 / 3, -0.25]))


def test_a_jpeg_that_libjpeg_complains_of_is_pillows_affair(picture: Image.Image) -> None:
    data = bytearray(encode(picture, "JPEG", quality=90))
    middle = len(data) * 3 // 4
    data[middle : middle + 8] = b"\xff\xd9\xff\xd9\x00\x00\x00\x00"
    data = bytes(data)
    try:
        expected = pillow(data)
    except OSError:
        with pytest.raises(DataError, match="x: the image cannot be decoded"):
            decode_image(data, source="x")
    else:
        assert torch.equal(decode_image(data, source="x"), expected)
