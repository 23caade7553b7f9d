"""Problems planted into a copy of a data set in folders, each with the check that has to find it."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance


class Plant(NamedTuple):
    what: str
    split: str
    file: str  # of the planted row
    checks: tuple[str, ...]  # any of them is right


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A small PNG that says it has 900 million pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(3 * side + 1))) + chunk(b"IEND", b"")


def cropped(image: Image.Image, share: float) -> Image.Image:
    left, top = (max(1, round(side * share)) for side in image.size)
    return image.crop((left, top, image.width - left, image.height - top))


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize(tuple(max(1, round(side * factor)) for side in image.size), Image.Resampling.BICUBIC)


ALTERED = {  # name -> (picture -> bytes, suffix)
    "jpeg": (lambda image: encoded(image, "JPEG", quality=90), ".jpg"),
    "smaller": (lambda image: encoded(resized(image, 0.85), "PNG"), ".png"),
    "larger": (lambda image: encoded(resized(image, 1.5), "WEBP", quality=90), ".webp"),
    "cropped": (lambda image: encoded(cropped(image, 0.02), "PNG"), ".png"),
    "brighter": (lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.08), "PNG"), ".png"),
    "darker": (lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.85), "WEBP", quality=90), ".webp"),
}


class Copy:
    """A copy of split folders with ``metadata.jsonl``, to be changed and written back."""

    def __init__(self, original: Path, folder: Path, *, seed: int) -> None:
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.plants: list[Plant] = []
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.concept: dict[str, str] = {}  # file -> what it shows, for a stand-in of a model
        self._used: set[tuple[str, int]] = set()
        for split in ("train", "validation", "test"):
            shutil.copytree(original / split, folder / split, copy_function=shutil.copyfile)
            lines = (original / split / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
            self.rows[split] = [json.loads(line) for line in lines]
            self.concept |= {row["file_name"]: row["group"] for row in self.rows[split]}

    def draw(self, split: str) -> dict[str, Any]:
        """A row that no plant has touched."""
        while True:
            number = int(self.rng.integers(len(self.rows[split])))
            row = self.rows[split][number]
            if (split, number) not in self._used and "planted" not in row["file_name"]:
                self._used.add((split, number))
                return row

    def path(self, split: str, row: dict[str, Any]) -> Path:
        return self.folder / split / row["file_name"]

    def add(self, what: str, data: bytes, suffix: str, *checks: str, shows: str = "", **other: Any) -> None:
        """A new row of the training split, of a group and caption of its own."""
        number = len(self.plants)
        row = {**self.rows["train"][0], "file_name": f"planted_{number:02d}{suffix}", "id": f"planted_{number:02d}"}
        row |= {"group": f"planted {number}", "text": f"thing number {number} that nobody saw", "tags": []} | other
        (self.folder / "train" / row["file_name"]).write_bytes(data)
        self.rows["train"].append(row)
        self.concept[row["file_name"]] = row["text"] if isinstance(row["text"], str) and not shows else shows
        self.plants.append(Plant(what, "train", row["file_name"], checks))

    def change(self, what: str, *checks: str, split: str = "train", **values: Any) -> dict[str, Any]:
        """Other values for a drawn row."""
        row = self.draw(split)
        row |= values
        self.plants.append(Plant(what, split, row["file_name"], checks))
        return row

    def write(self) -> None:
        for split, rows in self.rows.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (self.folder / split / "metadata.jsonl").write_text(lines, encoding="utf-8")


def plant_fifty(original: Path, folder: Path, *, seed: int = 0) -> Copy:
    """Fifty problems, the seed drawing the rows they befall."""
    copy = Copy(original, folder, seed=seed)
    _leaks(copy)
    _duplicates(copy)
    _broken(copy)
    _captions(copy)
    copy.write()
    return copy


def _picture(copy: Copy, split: str) -> Image.Image:
    return Image.open(copy.path(split, copy.draw(split))).convert("RGB")


def _leaks(copy: Copy) -> None:
    for _ in range(3):
        copy.change("leaked caption", "leaked_caption", text=copy.draw("test")["text"].upper() + ".")
    for _ in range(2):
        copy.change("leaked group", "leaked_group", group=copy.draw("test")["group"])
    for _ in range(3):
        copy.add("leaked image", copy.path("test", copy.draw("test")).read_bytes(), ".webp", "leaked_image")
    for split in ("test", "validation"):
        copy.add("leaked image, same pixels", encoded(_picture(copy, split), "PNG"), ".png", "leaked_image")
    for name, (alter, suffix) in ALTERED.items():
        copy.add(f"leaked image, {name}", alter(_picture(copy, "test")), suffix, "leaked_image")


def _duplicates(copy: Copy) -> None:
    for _ in range(2):
        copy.add("exact duplicate", copy.path("train", copy.draw("train")).read_bytes(), ".webp", "duplicate_image")
    for name in ("jpeg", "smaller", "cropped", "brighter", "darker"):
        alter, suffix = ALTERED[name]
        copy.add(f"duplicate, {name}", alter(_picture(copy, "train")), suffix, "near_duplicate_image")


def _broken(copy: Copy) -> None:
    for kind, suffix in (("WEBP", ".webp"), ("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")):
        data = encoded(_picture(copy, "train"), kind)
        data = data[: len(data) * 6 // 10]
        copy.add(f"truncated {kind}", data, suffix, "truncated_image", "unreadable_image")
    copy.add("empty file", b"", ".png", "unreadable_image")
    copy.add("text file", b"<html>404 not found</html>", ".jpg", "unreadable_image")
    copy.add("bomb", bomb(), ".png", "huge_image")
    for level in (255, 90):
        copy.add("blank", encoded(Image.new("RGB", (64, 64), (level,) * 3), "PNG"), ".png", "blank_image")
    noise = copy.rng.integers(0, 256, (10, 9, 3), dtype=np.uint8)
    copy.add("tiny", encoded(Image.fromarray(noise), "PNG"), ".png", "tiny_image")
    pixels = np.kron(copy.rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
    copy.add("wrong extension", encoded(Image.fromarray(pixels), "JPEG"), ".png", "wrong_extension")


def _captions(copy: Copy) -> None:
    copy.change("empty caption", "empty_caption", text="")
    copy.change("blank caption", "empty_caption", text="   ", split="test")
    copy.change("long caption", "long_caption", text="and so on " * 400)
    copy.change("caption of 1 MB", "long_caption", text="x" * 1_000_000)
    copy.change("damaged caption", "damaged_characters", text="caf\u00c3\u00a9 with a cro\u00c3\u00aessant")
    copy.change("file name", "markup_caption", text="IMG_20191231.jpg")
    for _ in range(5):
        copy.change("boilerplate", "boilerplate", text="Image not available")
    copy.change("duplicate id", "duplicate_id", "leaked_image", id=copy.rows["train"][0]["id"])
    for _ in range(2):
        one, other = copy.draw("train"), copy.draw("train")
        one["text"], other["text"] = other["text"], one["text"]
        for row in (one, other):
            copy.plants.append(Plant("swapped captions", "train", row["file_name"], ("mismatched_caption",)))
