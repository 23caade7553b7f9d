"""`VectorsEmbedder`: embeddings computed elsewhere, looked up by id."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.vectors import VectorFile
from mmcl.embedder.interface import EncodeMixin


class VectorsEmbedder(EncodeMixin):
    """Embeddings computed elsewhere, looked up by id.

    Args:
        vectors: the file.
    """

    def __init__(self, vectors: VectorFile) -> None:
        self.vectors = vectors
        self.embedding_dim = vectors.image.shape[1]
        self.modalities = frozenset({"image", "text"})
        self.logit_scale = 100.0  # a file holds no scale; CLIP's ceiling

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Ids to embeddings; see ``Embedder``.

        Raises:
            DataError: an id that the file does not hold.
        """
        self._check(items, modality, batch_size)
        vectors = self.vectors.image_rows(items) if modality == "image" else self.vectors.text_rows(items)
        return F.normalize(torch.from_numpy(vectors), dim=-1)

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``; images are found by the data set's ``id`` column."""
        return self.embed(dataset.column("id"), "image"), np.arange(len(dataset)), []

    def fingerprint(self) -> str:
        """A hash of the file's path, size and time."""
        stat = self.vectors.path.stat()
        told = f"{self.vectors.path.absolute()}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}"
        return hashlib.blake2b(told.encode()).hexdigest()
