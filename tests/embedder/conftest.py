"""Small models with random weights, and images and data sets that parts of can be unreadable."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from mmcl.config import HeadSection, ModelSection, TowerSection
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder import DualEncoderEmbedder
from mmcl.errors import DataError
from mmcl.models.dual_encoder import DualEncoder, build_dual_encoder

# Builders of small models, and what starts processes, stand beside other parts' tests.
for part in ("models", "training"):
    sys.path.append(str(Path(__file__).parents[1] / part))

TEXTS = ["a red circle", "two", "one big blue square next to three small green circles", "a dog", "red red red", "a"]


class StoredImages:
    """Images in memory; reading those in ``broken`` fails."""

    def __init__(self, images: Sequence[Tensor], broken: Sequence[int] = ()) -> None:
        self.images, self.broken = list(images), frozenset(broken)
        self.rows = np.arange(len(self.images))
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int) -> Tensor:
        number = int(self.rows[row])
        self.reads.append(number)
        if number in self.broken:
            raise DataError(f"image {number} is damaged")
        return self.images[number]

    def describe(self, row: int) -> str:
        return f"image {self.rows[row]}"

    def select(self, rows: np.ndarray) -> StoredImages:
        chosen = StoredImages(self.images, self.broken)
        chosen.rows, chosen.reads = self.rows[np.asarray(rows)], self.reads
        return chosen

    def fingerprint(self) -> str:
        return str([zlib.crc32(self.images[row].numpy().tobytes()) for row in self.rows] + sorted(self.broken))


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return list(TEXTS)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., DualEncoder]:
    """make_model(seed=0, image={...}, text={...}) -> DualEncoder: small towers, 16 dimensions."""

    def make(*, seed: int = 0, head: dict[str, Any] | None = None, **sides: dict[str, Any]) -> DualEncoder:
        torch.manual_seed(seed)
        small = {"image": {"options": {"num_hidden_layers": 1}}, "text": {}}
        head_section = HeadSection(**(head or {}))
        sections = {
            side: TowerSection(**{"head": head_section, **small[side], **sides.get(side, {})}) for side in small
        }
        return build_dual_encoder(ModelSection(**sections, embedding_dim=16), captions=TEXTS)

    return make


@pytest.fixture(scope="module")
def embedder(make_model: Callable[..., DualEncoder]) -> DualEncoderEmbedder:
    return DualEncoderEmbedder(make_model(), device="cpu")


@pytest.fixture(scope="session")
def images() -> list[Tensor]:
    """Seven, of seven sizes."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 40 + 9 * n, 80 - 7 * n), generator=draw, dtype=torch.uint8) for n in range(7)]


@pytest.fixture
def make_dataset() -> Callable[..., ImageTextDataset]:
    """make_dataset(images, broken=(1, 4), id=[...]) -> ImageTextDataset."""

    def make(images: Sequence[Tensor], broken: Sequence[int] = (), **columns: list[Any]) -> ImageTextDataset:
        table = pa.table({"texts": [["a"]] * len(images), **columns})
        return ImageTextDataset(StoredImages(images, broken), table, name="made")

    return make
