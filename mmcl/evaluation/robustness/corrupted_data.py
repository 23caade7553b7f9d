"""Data sets whose images or captions are changed as they are read, to judge a model on what it was not trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from torch import Tensor

from mmcl.data.dataset import SCHEMA, ImageStore, ImageTextDataset
from mmcl.evaluation.robustness.corruptions.apply import check_corruption, corrupt
from mmcl.evaluation.robustness.text_perturbations import change_text

# Part of every fingerprint: raised when a corruption draws otherwise than before, so that caches do not mix the two.
DRAWING = 1


class CorruptedImages:
    """An image store over another: every image is corrupted when it is read.

    An image's draw depends on the seed, the corruption and the image's key, neither on its place nor on the severity.

    Args:
        images: what is corrupted.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        keys: (n,) what an image's draw depends on.
        seed: of all draws.

    Raises:
        ConfigError: an unknown corruption or severity.
    """

    def __init__(self, images: ImageStore, name: str, severity: int, *, keys: Sequence[str], seed: int = 0) -> None:
        check_corruption(name, severity)
        self.images, self.name, self.severity, self.seed = images, name, severity, seed
        self.keys = np.asarray(keys, dtype=object)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, row: int) -> Tensor:
        """Image ``row``, corrupted, uint8 (3, h, w). Raises DataError when the image underneath cannot be read."""
        digest = hashlib.sha256(f"{self.seed}\x1f{self.keys[int(row)]}".encode()).digest()
        seed = int.from_bytes(digest[:8], "little")
        return corrupt(self.images.read(row), self.name, self.severity, seed=seed)

    def describe(self, row: int) -> str:
        """The image underneath, and what was done to it."""
        return f"{self.images.describe(row)} ({self.name}, severity {self.severity})"

    def select(self, rows: np.ndarray) -> CorruptedImages:
        """A store of these rows alone, in this order; each image is as it was."""
        rows = np.asarray(rows, dtype=np.int64)
        keys = self.keys[rows].tolist()
        return CorruptedImages(self.images.select(rows), self.name, self.severity, keys=keys, seed=self.seed)

    def fingerprint(self) -> str:
        """A hash of the images underneath, the corruption, its severity, and the draws."""
        parts = (DRAWING, self.images.fingerprint(), self.name, self.severity, self.seed)
        digest = hashlib.sha256("\x1f".join(map(str, parts)).encode())
        for key in self.keys:
            digest.update(f"{key}\x1e".encode())
        return digest.hexdigest()


def corrupt_images(dataset: ImageTextDataset, name: str, severity: int, *, seed: int = 0) -> ImageTextDataset:
    """The data set with every image corrupted; nothing is read before it is asked for.

    Args:
        dataset: any; with a column ``id``, an image's draw depends on its id, otherwise on its row number.
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of all draws.

    Raises:
        ConfigError: an unknown corruption or severity.

    Example:
        >>> from mmcl.data import load
        >>> dataset = load("shapes?test=4:test")
        >>> corrupt_images(dataset, "fog", 3).fingerprint() == dataset.fingerprint()
        False
    """
    ids = dataset.column("id") if dataset.has("id") else [None] * len(dataset)
    keys = [f"row {row}" if key is None else str(key) for row, key in enumerate(ids)]
    images = CorruptedImages(dataset.images, name, severity, keys=keys, seed=seed)
    shown = f"{dataset.name} ({name}, severity {severity})"
    return ImageTextDataset(images, dataset.table, name=shown, skipped=dataset.skipped)


def change_texts(dataset: ImageTextDataset, name: str, *, seed: int = 0) -> ImageTextDataset:
    """The data set with every caption changed by `change_text`; rows belong together as they did before.

    Args:
        dataset: any.
        name: one of ``TEXT_CHANGES``.
        seed: of all draws.

    Raises:
        ConfigError: an unknown change.
    """
    texts = [[change_text(text, name, seed=seed) for text in cell] for cell in dataset.column("texts")]
    table = _with_column(dataset.table, "texts", texts)
    # Written out: two captions may have become equal, which would bring rows together that have no group.
    table = _with_column(table, "group", [str(group) for group in dataset.group_ids().tolist()])
    return ImageTextDataset(dataset.images, table, name=f"{dataset.name} ({name})", skipped=dataset.skipped)


def _with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    column = pa.array(values, SCHEMA[name])
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)
