"""`make_digits`: scikit-learn's handwritten digits with captions, the smallest real data to train on."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.making.card import write_card
from mmcl.data.writing import write_dataset
from mmcl.errors import DataError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONS = ("a handwritten {word}", "the digit {word}", "the number {number}, written by hand")
SPLITS = {"train": 0.6, "validation": 0.2, "test": 0.2}
IMAGE_SIZE = 64
LARGEST = 16  # ink of a pixel of the source, from 0
_SCHEMA = pa.schema(
    [("id", pa.string()), ("texts", pa.list_(pa.string())), ("label", pa.string()), ("group", pa.string())]
)


def make_digits(
    out: Path, *, image_size: int = IMAGE_SIZE, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Write scikit-learn's 1,797 handwritten digits as a folder of PNG files with captions, and a card.

    Nothing is downloaded: the images lie in scikit-learn. Columns: ``text`` (three phrasings), ``label`` (zero to
    nine) and ``group`` (the same: every three is a right answer to "a handwritten three"). The splits hold 60, 20 and
    20 % of each digit.

    Args:
        out: the folder to write (see ``write_dataset``).
        image_size: side of the images in pixels, at least 8; the source's 8 x 8 are enlarged.
        progress: told what is done, how much of it, and of how much.

    Returns:
        What ``write_dataset`` returns, and the path ``card``.

    Raises:
        DataError: image_size is below 8.
        ConfigError: ``out`` holds something else.
    """
    counts = write_dataset(digit_splits(image_size=image_size), Path(out), format="folder", progress=progress)
    command = f"mmcl data make digits -o OUT --image-size {image_size}"
    card = write_card(Path(counts["out"]), "digits", versions={}, command=command, progress=progress)
    return {**counts, "card": str(card)}


def digit_splits(*, image_size: int = IMAGE_SIZE) -> dict[str | None, ImageTextDataset]:
    """The splits of the digits, images in memory.

    Args:
        image_size: side in pixels, at least 8.

    Raises:
        DataError: image_size is below 8.

    Example:
        >>> {split: len(rows) for split, rows in digit_splits().items()}
        {'train': 1078, 'validation': 360, 'test': 359}
    """
    from sklearn.datasets import load_digits

    if image_size < 8:
        raise DataError(f"image_size of digits must be at least 8 pixels, got {image_size}; the source has 8")
    source = load_digits()
    classes = source.target.astype(int)
    made: dict[str | None, ImageTextDataset] = {}
    for split, rows in split_rows(source.images, classes).items():
        table = pa.Table.from_pylist([_row(row, int(classes[row])) for row in rows], schema=_SCHEMA)
        images = pa.chunked_array([[picture(source.images[row], image_size) for row in rows]], pa.binary())
        name = f"digits:{split}"
        made[split] = ImageTextDataset(BytesImages(images, source=name), table, name=name)
    return made


def split_rows(images: np.ndarray, classes: np.ndarray) -> dict[str, list[int]]:
    """Rows of each split: of every class the same shares, by the SHA-1 of the pixels, which no generator can change.

    Args:
        images: (n, h, w) whole numbers from 0 to 16.
        classes: (n,) int.

    Returns:
        Split -> its rows, ascending. Of two equal images of one class, both are in one split or neighbours.
    """
    digests = [hashlib.sha1(image.astype(np.uint8).tobytes()).hexdigest() for image in images]
    rows: dict[str, list[int]] = {split: [] for split in SPLITS}
    for one in np.unique(classes):
        ordered = sorted(np.flatnonzero(classes == one).tolist(), key=lambda row: (digests[row], row))
        start, share = 0, 0.0
        for split in SPLITS:
            share += SPLITS[split]
            stop = round(share * len(ordered))
            rows[split] += ordered[start:stop]
            start = stop
    return {split: sorted(chosen) for split, chosen in rows.items()}


def picture(image: np.ndarray, image_size: int) -> bytes:
    """(8, 8) ink from 0 to 16 -> a grey PNG, dark on white paper, enlarged smoothly: squares would be edges of no pen.

    The same image gives the same bytes.
    """
    paper = 255 - np.clip(np.round(image * (255 / LARGEST)), 0, 255)
    enlarged = Image.fromarray(paper.astype(np.uint8)).resize((image_size, image_size), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    enlarged.save(file, format="PNG")
    return file.getvalue()


def _row(row: int, number: int) -> dict[str, Any]:
    word = WORDS[number]
    texts = [caption.format(word=word, number=number) for caption in CAPTIONS]
    return {"id": f"digit-{row:04d}", "texts": texts, "label": word, "group": word}
