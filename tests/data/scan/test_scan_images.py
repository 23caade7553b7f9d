"""What is known of every image after one look, against Pillow, hashlib and a naive cosine transform."""

from __future__ import annotations

import hashlib
import io
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from stored_items import encode

from mmcl.data import load
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.files import FileImages
from mmcl.data.scan import images as scan
from mmcl.data.scan.facts import FACTS
from mmcl.data.scan.images import scan_images
from mmcl.data.scan.perceptual_hash import hamming, perceptual_hash, small_grey


def pictures(number: int = 12) -> list[Image.Image]:
    rng = np.random.default_rng(1)
    made = []
    for index in range(number):
        coarse = rng.integers(0, 256, (5 + index % 4, 6, 3), dtype=np.uint8)
        made.append(Image.fromarray(coarse).resize((40 + 7 * index, 90 - 5 * index), Image.Resampling.BICUBIC))
    return made


def dataset_of(folder: Path, files: dict[str, bytes]) -> ImageTextDataset:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    names = pa.array(list(files))
    return ImageTextDataset(FileImages(folder, names), pa.table({"id": names, "texts": [["x"]] * len(files)}), name="t")


def naive_hash(image: Image.Image) -> int:
    """Every sum written out, in float64."""
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    waves = [[math.cos(math.pi * u * (2 * x + 1) / 64) for x in range(32)] for u in range(8)]
    low = [
        [sum(waves[v][y] * sum(waves[u][x] * pixels[y, x] for x in range(32)) for y in range(32)) for u in range(8)]
        for v in range(8)
    ]
    flat = [value for row in low for value in row]
    middle = float(np.median(flat))
    return int("".join("1" if value > middle else "0" for value in flat), 2)


def test_hash_is_the_naive_one() -> None:
    for image in pictures(3):
        assert int(perceptual_hash(small_grey(image))) == naive_hash(image)


def test_hash_is_imagehash_s() -> None:
    imagehash = pytest.importorskip("imagehash")
    hashes = [int(perceptual_hash(small_grey(image))) for image in pictures()]
    assert hashes == [int(str(imagehash.phash(image)), 16) for image in pictures()]
    assert len(set(hashes)) == len(hashes)


def test_hamming_counts_bits() -> None:
    values = np.array([0, 1, 0b1011, 2**64 - 1], dtype=np.uint64)
    assert hamming(values, np.uint64(0)).tolist() == [0, 1, 3, 64]


def test_facts_of_plain_files(tmp_path: Path) -> None:
    image = pictures(1)[0]
    files = {f"a.{kind.lower()}": encode(image, kind, quality=90) for kind in ("PNG", "JPEG", "WEBP")}
    data = dataset_of(tmp_path / "d", files)
    table = scan_images(data)
    assert table.schema.equals(FACTS)
    for row, (found, content) in enumerate(zip(table.to_pylist(), files.values())):
        grey = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=np.float64)
        assert found["problem"] is None
        assert found["format"] == list(files)[row].split(".")[1].upper()
        assert (found["mode"], found["width"], found["height"]) == ("RGB", *image.size)
        assert (found["num_bytes"], found["frames"], found["rotated"]) == (len(content), 1, False)
        assert found["digest"] == hashlib.blake2b(content, digest_size=16).digest()
        assert found["mean"] == pytest.approx(grey.mean(), abs=1e-3)
        assert found["std"] == pytest.approx(grey.std(), abs=1e-3)
        assert hamming(np.uint64(found["phash"]), np.uint64(table["phash"][0].as_py())) <= 4


def test_facts_of_odd_files(tmp_path: Path) -> None:
    image = pictures(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    frames = [image.convert("P"), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("P")]
    files = {
        "cmyk.jpg": encode(image.convert("CMYK"), "JPEG"),
        "deep.png": encode(deep, "PNG"),
        "moving.gif": encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "turned.jpg": encode(image, "JPEG", exif=exif),
        "turned.png": encode(image, "PNG", exif=exif),
        "alpha.png": encode(image.convert("RGBA"), "PNG"),
    }
    found = dict(zip(files, scan_images(dataset_of(tmp_path / "d", files)).to_pylist()))
    assert [row["problem"] for row in found.values()] == [None] * len(files)
    assert found["cmyk.jpg"]["mode"] == "CMYK"
    assert found["deep.png"]["mode"].startswith("I")
    assert found["moving.gif"]["frames"] == 2
    assert [name for name, row in found.items() if row["rotated"]] == ["turned.jpg", "turned.png"]
    assert found["alpha.png"]["mode"] == "RGBA"


def test_a_turned_image_is_hashed_as_it_is_seen(tmp_path: Path) -> None:
    image = pictures(1)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    files = {
        "stored.png": encode(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif),
        "seen.png": encode(image, "PNG"),
        "other.png": encode(image.transpose(Image.Transpose.ROTATE_90), "PNG"),
    }
    hashes = scan_images(dataset_of(tmp_path / "d", files))["phash"].to_pylist()
    assert hashes[0] == hashes[1] != hashes[2]


def test_unreadable_files_say_why(tmp_path: Path) -> None:
    content = encode(pictures(1)[0], "JPEG")
    files = {"cut.jpg": content[: len(content) // 2], "empty.png": b"", "text.png": b"<html>", "good.jpg": content}
    data = dataset_of(tmp_path / "d", files)
    (tmp_path / "d" / "text.png").unlink()
    cut, empty, missing, good = scan_images(data).to_pylist()
    assert "truncated" in cut["problem"]
    assert (cut["format"], cut["width"], cut["phash"]) == ("JPEG", good["width"], None)
    assert empty["problem"] == "the image is empty (0 bytes)"
    assert missing == {**dict.fromkeys(FACTS.names), "problem": "no such image file"}
    assert good["problem"] is None


def test_large_jpegs_are_hashed_almost_alike_at_a_part_of_their_size(tmp_path: Path) -> None:
    image = pictures(1)[0].resize((1200, 900), Image.Resampling.BICUBIC)
    data = dataset_of(tmp_path / "d", {"large.jpg": encode(image, "JPEG", quality=90)})
    found = scan_images(data).to_pylist()[0]
    assert (found["width"], found["height"]) == (1200, 900)
    assert hamming(np.uint64(found["phash"]), perceptual_hash(small_grey(image))) <= 4


def test_pixels_in_memory_and_no_rows() -> None:
    data = load("shapes?train=4&test=3:test")
    assert scan_images(data)["problem"].to_pylist() == [None] * 3
    assert scan_images(data.select([])).equals(FACTS.empty_table())


def test_workers_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{row:02d}.png": encode(image, "PNG") for row, image in enumerate(pictures())}
    data = dataset_of(tmp_path / "d", files)
    monkeypatch.setattr(scan, "CHUNK_ROWS", 5)
    told: list[tuple[str, int, int]] = []
    alone = scan_images(data, progress=lambda *step: told.append(step))
    assert [done for _, done, _ in told] == [0, 5, 10, 12]
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "other"))
    assert scan_images(data, workers=2).equals(alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_off_scan_goes_on(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{row:02d}.png": encode(image, "PNG") for row, image in enumerate(pictures())}
    data = dataset_of(tmp_path / "d", files)
    monkeypatch.setattr(scan, "CHUNK_ROWS", 3)

    def interrupt(what: str, done: int, total: int) -> None:
        if done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scan_images(data, workers=workers, progress=interrupt)
    told: list[int] = []
    table = scan_images(data, progress=lambda what, done, total: told.append(done))
    assert told[0] == 6
    assert table.num_rows == len(files)
    told.clear()
    assert scan_images(data, progress=lambda what, done, total: told.append(done)).equals(table)
    assert told == []


def test_a_damaged_file_of_the_scan_is_made_again(tmp_path: Path) -> None:
    data = dataset_of(tmp_path / "d", {"a.png": encode(pictures(1)[0], "PNG")})
    first = scan_images(data).to_pylist()
    (file,) = (scan.cache_folder() / "scans").rglob("*.arrow")
    file.write_bytes(file.read_bytes()[:40])
    assert scan_images(data).to_pylist() == first


def test_changed_images_are_scanned_anew(tmp_path: Path) -> None:
    one, other = (encode(image, "PNG") for image in pictures(2))
    before = scan_images(dataset_of(tmp_path / "d", {"a.png": one}))
    after = scan_images(dataset_of(tmp_path / "d", {"a.png": other}))
    assert before["phash"].to_pylist() != after["phash"].to_pylist()
