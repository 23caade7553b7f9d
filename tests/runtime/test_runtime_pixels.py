"""Pixels without torch: equal to torch's and mmcl's own, bit for bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode, functional

from mmcl.errors import ConfigError
from mmcl.models.towers.preprocessing import ImagePreprocessing
from mmcl.runtime.pixels import PixelPreprocessing
from mmcl.runtime.resampling import resize

SIDES = [1, 2, 3, 7, 16, 31, 33, 64, 97, 224, 225, 301]


def drawn(height: int, width: int, seed: int) -> np.ndarray:
    """Noise, or black and white alone, where cubic weights leave the range of a byte."""
    pixels = np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)
    return (pixels > 127).astype(np.uint8) * 255 if seed % 3 == 0 else pixels


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest-exact"])
def test_a_resize_is_torchs_bit_for_bit(interpolation: str) -> None:
    choose = random.Random(1)
    for seed in range(240):
        pixels = drawn(choose.choice(SIDES), choose.choice(SIDES), seed)
        if seed % 2:  # as decoders leave them in memory
            pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0)).transpose(2, 0, 1)
        size = (choose.choice(SIDES), choose.choice(SIDES[1:]))
        mode = InterpolationMode(interpolation)
        wanted = functional.resize(torch.from_numpy(pixels), list(size), interpolation=mode, antialias=True)
        assert np.array_equal(resize(pixels, size, interpolation), wanted.numpy()), (pixels.shape, size)


def test_a_large_photograph() -> None:
    pixels = drawn(1501, 2003, 5)
    wanted = functional.resize(
        torch.from_numpy(pixels), [224, 299], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    assert np.array_equal(resize(pixels, (224, 299), "bicubic"), wanted.numpy())


def test_pillows_resize_is_another() -> None:
    # A control: the comparison above sees one level.
    pixels = drawn(97, 61, 4)
    image = Image.fromarray(pixels.transpose(1, 2, 0)).resize((48, 40), Image.Resampling.BICUBIC)
    apart = np.abs(np.asarray(image).transpose(2, 0, 1).astype(int) - resize(pixels, (40, 48), "bicubic"))
    assert 1 <= apart.max() <= 4


def test_what_resizing_does_to_plain_images() -> None:
    flat = np.full((3, 9, 13), 77, dtype=np.uint8)
    assert (resize(flat, (30, 5), "bicubic") == 77).all()
    assert resize(flat, (9, 13), "bicubic") is flat
    ramp = np.arange(0, 256, 5, dtype=np.uint8)[None, None].repeat(3, 0)
    assert (np.diff(resize(ramp, (1, 20), "bilinear").astype(int)) >= 0).all()


def test_an_unknown_interpolation() -> None:
    with pytest.raises(ConfigError, match=r"interpolation is 'lanczos'; want one of bilinear, bicubic, nearest-exact"):
        resize(drawn(3, 3, 1), (2, 2), "lanczos")


PREPROCESSINGS = {
    "squash": ImagePreprocessing((32, 32)),
    "shorter side and crop": ImagePreprocessing((32, 32), 36, "bilinear", (0.48, 0.45, 0.40), (0.26, 0.26, 0.27)),
    "not square": ImagePreprocessing((24, 40), (24, 40), "bicubic", (0.0, 0.1, 0.2), (1.0, 0.9, 0.3)),
    "crop rounded to even": ImagePreprocessing((31, 31), 34, crop_rounding="even"),
    "squash and crop": ImagePreprocessing((30, 30), (37, 33), "nearest-exact", crop_rounding="even"),
    "smaller than the crop": ImagePreprocessing((33, 40), 25),
    "smaller one way": ImagePreprocessing((20, 41), 22, crop_rounding="even"),
}


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS.values(), ids=PREPROCESSINGS)
def test_pixel_values_are_mmcls_bit_for_bit(preprocessing: ImagePreprocessing) -> None:
    own = PixelPreprocessing.from_dict(preprocessing.to_dict(), source="x")
    sizes = [(32, 32), (40, 56), (71, 36), (33, 33), (1, 1), (1, 30), (45, 2), (36, 34), (34, 35), (24, 40), (400, 299)]
    images = [drawn(*size, seed) for seed, size in enumerate(sizes)]
    wanted = preprocessing([torch.from_numpy(image) for image in images])["pixel_values"]
    found = own(images)
    assert found.dtype == np.float32
    assert np.array_equal(found, wanted.numpy())
    assert not np.array_equal(found[:1], own(images[1:2]))


def test_a_damaged_description() -> None:
    values = ImagePreprocessing((8, 8)).to_dict()
    with pytest.raises(ConfigError, match=r"f\.json: its image preprocessing has no mean; export the model again"):
        PixelPreprocessing.from_dict({k: v for k, v in values.items() if k != "mean"}, source="f.json")
    with pytest.raises(ConfigError, match=r"interpolation 'sinc' or crop_rounding 'down' is unknown"):
        PixelPreprocessing.from_dict(values | {"interpolation": "sinc"}, source="f.json")
