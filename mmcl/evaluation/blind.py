"""`BlindEmbedder`: random embeddings, for finding out what an evaluation measures before there is a model to judge."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.embedder.interface import EncodeMixin

if TYPE_CHECKING:
    from mmcl.batch import SkippedRow
    from mmcl.data.dataset import ImageTextDataset


class BlindEmbedder(EncodeMixin):
    """Random embeddings of anything: shows what an evaluation measures before there is a model to judge.

    An item's row is drawn from a hash of what it holds; the images of a data set are not read, their names are hashed.
    """

    embedding_dim = 8
    modalities = frozenset({"image", "text"})
    logit_scale = 1.0

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to random embeddings; see ``Embedder``. Equal items have equal rows."""
        self._check(items, modality, batch_size)
        return _random_rows([_content(item) for item in items])

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """A random embedding for every row; none is read, so none is skipped."""
        names = (f"{row}\x1f{dataset.images.describe(row)}" for row in range(len(dataset)))
        return _random_rows([name.encode("utf-8", "surrogatepass") for name in names]), np.arange(len(dataset)), []


def _content(item: Any) -> bytes:
    if isinstance(item, str):
        return item.encode("utf-8", "surrogatepass")
    if isinstance(item, (bytes, bytearray, memoryview)):
        return bytes(item)
    if hasattr(item, "__array__") or hasattr(item, "__array_interface__"):
        return np.ascontiguousarray(item).tobytes()
    return repr(item).encode()


def _random_rows(contents: Sequence[bytes]) -> Tensor:
    """(n, 8) unit rows from 32 bytes of hash each."""
    hashes = b"".join(hashlib.sha256(content).digest() for content in contents)
    values = np.array(memoryview(hashes).cast("I"), dtype=np.float64).reshape(-1, BlindEmbedder.embedding_dim)
    return F.normalize(torch.from_numpy(values / 2**31 - 1), dim=-1).float()
