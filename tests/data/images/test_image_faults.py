"""Awkward and broken images: read as they are meant, or refused with a reason; nothing else is lost."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stored_items import encode, write_json_lines

from mmcl.config import CaptionsSection
from mmcl.data import BatchReader, ImagePixels, decode_image, load
from mmcl.errors import DataError
from mmcl.models.towers.preprocessing import ImagePreprocessing

COLOURS = np.array([[[255, 0, 0], [0, 128, 0], [0, 0, 255]]], np.uint8)


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    """A PNG written by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sixteen_bits(channels: int) -> bytes:
    values = (COLOURS[..., :channels].astype(">u2") * 257).tobytes()
    return png(3, 1, 16, {1: 0, 3: 2}[channels], b"\x00" + values)


def bomb_jpeg() -> bytes:
    """A JPEG whose header says 30,000 x 30,000."""
    data = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", 30_000, 30_000)
    return bytes(data)


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue", "green")]
    return encode(
        frames[0], kind, save_all=True, append_images=frames[1:], **({} if kind == "GIF" else {"lossless": True})
    )


def palette() -> bytes:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    return encode(image, "PNG", transparency=bytes([255, 0]))


GOOD = {
    "png_named_jpg.jpg": encode(Image.fromarray(COLOURS)),
    "cmyk.jpg": encode(Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "JPEG"),
    "grey16.png": sixteen_bits(1),
    "rgb16.png": sixteen_bits(3),
    "palette.png": palette(),
    "animated.gif": animated("GIF"),
    "animated.webp": animated("WEBP"),
    "animated.png": animated("PNG"),
}
REASONS = {
    "truncated.jpg": (encode(Image.effect_noise((64, 64), 50), "JPEG")[:900], "cannot be decoded"),
    "cut_header.jpg": (encode(Image.new("RGB", (64, 64)), "JPEG")[:20], "not an image that Pillow can identify"),
    "empty.jpg": (b"", r"the image is empty \(0 bytes\)"),
    "page.jpg": (b"<html>404 not found</html>", "not an image that Pillow can identify, but text: '<html>404"),
    "bomb.png": (png(30_000, 30_000, 8, 2, b"\x00" * 100), "too many pixels: .*900000000"),
    "bomb.jpg": (bomb_jpeg(), "too many pixels: 30000 x 30000; the limit is 178956970"),
    "picture.heic": (
        b"\x00\x00\x00\x18ftypheic" + bytes(40),
        "in HEIC format, .* cannot decode; convert",
    ),
    "noise.png": (bytes(range(128, 256)), "not an image that Pillow can identify$"),
}


@pytest.mark.parametrize("name", GOOD)
def test_awkward_images_are_read(name: str) -> None:
    found = decode_image(GOOD[name], source=name)
    assert found.dtype == torch.uint8
    expected = {
        "png_named_jpg.jpg": COLOURS[0].tolist(),
        "cmyk.jpg": [[255, 0, 0]],
        "grey16.png": [[255] * 3, [0] * 3, [0] * 3],
        "rgb16.png": COLOURS[0].tolist(),
        "palette.png": [[255, 0, 0], [255, 255, 255]],
    }.get(name, [[255, 0, 0]])
    assert found[:, 0, : len(expected)].T.tolist() == expected
    if name.startswith("animated"):
        assert Image.open(io.BytesIO(GOOD[name])).n_frames == 3, "it is animated"


@pytest.mark.parametrize("name", REASONS)
def test_broken_images_are_refused_quickly_with_a_reason(name: str) -> None:
    data, reason = REASONS[name]
    decode_image(GOOD["rgb16.png"], source="first")  # what is imported once is imported now
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(DataError, match=f"^here/{name}: .*{reason}"):
            decode_image(data, source=f"here/{name}")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - started < 2


def test_an_avif_without_its_decoder_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*arguments: object, **options: object) -> None:
        raise Image.UnidentifiedImageError

    monkeypatch.setattr(Image, "open", unknown)
    with pytest.raises(DataError, match=r"a\.avif: in AVIF format"):
        decode_image(b"\x00\x00\x00\x18ftypavif" + bytes(40), source="a.avif")


def test_who_trusts_the_data_may_raise_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(Image.new("RGB", (100, 100), "red"), "JPEG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4999)
    with pytest.raises(DataError, match="x: too many pixels: 100 x 100; the limit is 9998"):
        decode_image(data, source="x")
    for limit in (5000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert decode_image(data, source="x").shape == (3, 100, 100)


def test_broken_rows_are_counted_and_listed_and_the_others_kept(tmp_path: Path) -> None:
    files = {**GOOD, **{name: data for name, (data, _) in REASONS.items()}}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rows = [{"file_name": name, "text": f"a picture called {name}"} for name in files]
    write_json_lines(tmp_path / "metadata.jsonl", rows)
    dataset = load(tmp_path)
    assert len(dataset) == len(files), "no image is read before it is needed"
    pixels = ImagePixels(dataset, ImagePreprocessing((8, 8)))
    reader = BatchReader(dataset, pixels, lambda texts: {"texts": texts}, captions=CaptionsSection(), seed=0)
    batch = reader.__getitems__(range(len(files)))
    names = list(files)
    assert [names[row] for row in batch.rows.tolist()] == list(GOOD)
    assert batch.image["pixel_values"].shape == (len(GOOD), 3, 8, 8)
    assert batch.text["texts"] == [f"a picture called {name}" for name in GOOD]
    assert {names[skip.row]: skip.source for skip in batch.skipped} == {name: f"{tmp_path}/{name}" for name in REASONS}
    assert all(skip.reason and str(tmp_path) not in skip.reason for skip in batch.skipped)
