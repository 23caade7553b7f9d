from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageCms
from stored_items import encode

from mmcl.data import decode_image, load
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.writing import write_dataset
from mmcl.data.writing.resizing import shrink
from mmcl.errors import DataError


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) % 200], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize(
    ("size", "wanted"), [((200, 100), (80, 40)), ((100, 200), (40, 80)), ((99, 50), (79, 40)), ((41, 41), (40, 40))]
)
def test_the_shorter_side_is_what_was_asked_for(size, wanted):
    for kind in ("PNG", "JPEG", "WEBP"):
        image = opened(shrink(encode(gradient(*size), kind), 40, source="x"))
        assert (image.size, image.format) == (wanted, kind)


@pytest.mark.parametrize("size", [(40, 90), (39, 200), (40, 40)])
def test_nothing_is_enlarged_or_touched(size):
    data = encode(gradient(*size), "JPEG")
    assert shrink(data, 40, source="x") is data
    assert shrink(data, 38, source="x") != data


def test_png_is_what_pillow_resamples():
    image = gradient(120, 90)
    wanted = image.resize((53, 40), Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(opened(shrink(encode(image), 40, source="x"))), np.asarray(wanted))


def test_jpeg_decoded_at_a_smaller_scale_looks_the_same():
    data = encode(gradient(800, 600).convert("L"), "JPEG", quality=98)
    whole = opened(data).resize((133, 100), Image.Resampling.LANCZOS)
    wanted = np.asarray(opened(encode(whole, "JPEG", quality=95))).astype(float)
    got = np.asarray(opened(shrink(data, 100, source="x"))).astype(float)
    assert np.abs(got - wanted).mean() < 0.5
    assert np.abs(got - np.roll(wanted, 1, axis=1)).mean() > 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_goes(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(gradient(120, 80), "JPEG", quality=95, exif=exif)
    small = shrink(data, 40, source="x")
    assert not opened(small).getexif()
    upright = decode_image(data, source="x").numpy().transpose(1, 2, 0)
    size = (60, 40) if orientation < 5 else (40, 60)
    wanted = np.asarray(Image.fromarray(upright).resize(size, Image.Resampling.LANCZOS)).astype(float)
    got = decode_image(small, source="x").numpy().transpose(1, 2, 0).astype(float)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).mean() < 5
    assert np.abs(got[::-1, ::-1] - wanted).mean() > 20


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16"])
def test_png_of_any_mode_stays_png(mode):
    if mode == "I;16":
        image = Image.fromarray((np.arange(100 * 80, dtype=np.uint16).reshape(80, 100) * 8).astype(np.uint16))
    else:
        image = gradient(100, 80, mode)
    small = opened(shrink(encode(image), 40, source="x"))
    assert (small.format, small.size) == ("PNG", (50, 40))
    assert small.mode in ("RGB", "RGBA", "L", "LA")


def test_transparency_stays():
    image = gradient(100, 80, "RGBA")
    image.putalpha(Image.linear_gradient("L").resize((100, 80)))
    small = opened(shrink(encode(image), 40, source="x"))
    alpha = np.asarray(small.getchannel("A")).astype(int)
    assert alpha[0].max() < 10
    assert alpha[-1].min() > 245
    palette = gradient(100, 80).quantize(8)
    palette.info["transparency"] = 0
    assert opened(shrink(encode(palette, transparency=0), 40, source="x")).mode == "RGBA"


def test_other_formats_and_modes():
    cmyk = opened(shrink(encode(gradient(100, 80, "CMYK"), "JPEG"), 40, source="x"))
    assert (cmyk.format, cmyk.mode, cmyk.size) == ("JPEG", "RGB", (50, 40))
    frames = [gradient(100, 80), gradient(100, 80).rotate(180)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    small = opened(shrink(gif, 40, source="x"))
    assert (small.format, small.size, getattr(small, "n_frames", 1)) == ("PNG", (50, 40), 1)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    kept = opened(shrink(encode(gradient(100, 80), "JPEG", icc_profile=profile), 40, source="x"))
    assert kept.info["icc_profile"] == profile


@pytest.mark.parametrize(
    "spoilt", [b"", b"no image", encode(gradient(100, 80))[:-200], encode(gradient(99, 80), "JPEG")[:900]]
)
def test_broken_images_are_told(spoilt):
    with pytest.raises(DataError, match=r"^here\.png: "):
        shrink(spoilt, 40, source="here.png")


def test_written_smaller(tmp_path):
    images = [encode(gradient(100, 80)), encode(gradient(30, 20)), encode(gradient(200, 100), "JPEG"), b"broken"]
    table = pa.table({"texts": [["a"]] * 4})
    dataset = ImageTextDataset(BytesImages(pa.chunked_array([images]), source="memory"), table, name="memory")
    for format in ("webdataset", "parquet", "folder"):
        counts = write_dataset({"test": dataset}, tmp_path / format, format=format, resize=40)
        assert counts["re_encoded"] == {"PNG": 1, "JPEG": 1}
        assert counts["skipped"] == {"test": 1}
        written = load(tmp_path / format)
        assert [tuple(written.images.read(row).shape) for row in range(3)] == [(3, 40, 50), (3, 20, 30), (3, 40, 80)]
        assert written.images.encoded(1) == images[1]
