"""A data set in memory and an embedder that looks its vectors up, so that every expected number can be worked out."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.errors import DataError


class NumberedImages:
    """Images whose pixels hold their number, so that an embedder can tell which one it was given."""

    def __init__(self, numbers: Sequence[int], unreadable: Sequence[int] = ()) -> None:
        self.numbers = np.asarray(numbers, dtype=np.int64)
        self.unreadable = frozenset(unreadable)

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, row: int) -> Tensor:
        number = int(self.numbers[row])
        if number in self.unreadable:
            raise DataError(f"{self.describe(row)} cannot be decoded")
        return torch.tensor([number // 256, number % 256, 0], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)

    def describe(self, row: int) -> str:
        return f"image {self.numbers[row]}"

    def select(self, rows: np.ndarray) -> NumberedImages:
        return NumberedImages(self.numbers[rows], self.unreadable)

    def fingerprint(self) -> str:
        return str((self.numbers.tolist(), sorted(self.unreadable)))


def number_of(image: Tensor) -> int:
    return 256 * int(image[0, 0, 0]) + int(image[1, 0, 0])


class TableEmbedder:
    """Image number i has row i of ``images``; a text has its row in ``texts``. Rows are returned as they are."""

    modalities = frozenset({"image", "text"})

    def __init__(self, images: Tensor, texts: dict[str, Tensor], logit_scale: float = 100.0) -> None:
        self.images, self.texts, self.logit_scale = images, texts, logit_scale
        self.embedding_dim = images.shape[1]
        self.seen_texts: list[str] = []

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        if modality == "text":
            self.seen_texts += items
            rows = [self.texts[item] for item in items]
        else:
            rows = [self.images[number_of(items[index])] for index in range(len(items))]
        return torch.stack(rows) if rows else torch.empty(0, self.embedding_dim)

    def encode_image(self, images: Sequence[Any], **options: Any) -> Tensor:
        return self.embed(images, "image", **options)

    def encode_text(self, texts: Sequence[str], **options: Any) -> Tensor:
        return self.embed(texts, "text", **options)


def _embed_readable(
    embedder: TableEmbedder, dataset: ImageTextDataset, *, batch_size: int = 64
) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
    images, rows, skipped = [], [], []
    for row in range(len(dataset)):
        try:
            images.append(dataset.images.read(row))
            rows.append(row)
        except DataError as error:
            skipped.append(SkippedRow(row, dataset.images.describe(row), str(error)))
    return embedder.encode_image(images, batch_size=batch_size), np.array(rows, dtype=np.int64), skipped


@pytest.fixture(autouse=True)
def embed_images_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the embedder module is not there: what these tests check is what is made of its result."""
    if importlib.util.find_spec("mmcl.embedder") is None:
        stand_in = types.ModuleType("mmcl.embedder")
        stand_in.embed_images = _embed_readable  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mmcl.embedder", stand_in)


@pytest.fixture
def make_dataset() -> Callable[..., ImageTextDataset]:
    """make_dataset(texts, unreadable=(), label=[...], group=[...], ...) -> ImageTextDataset."""

    def make(texts: list[list[str]], *, unreadable: Sequence[int] = (), **columns: list[Any]) -> ImageTextDataset:
        columns = {"texts": texts, **columns}
        arrays = {name: pa.array(values, SCHEMA.get(name)) for name, values in columns.items()}
        return ImageTextDataset(NumberedImages(range(len(texts)), unreadable), pa.table(arrays), name="made:test")

    return make


@pytest.fixture
def table_embedder() -> type[TableEmbedder]:
    return TableEmbedder
