"""`BlindEmbedder`: random embeddings, for finding out what an evaluation measures before there is a model to judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from mmcl.batch import SkippedRow
    from mmcl.data.dataset import ImageTextDataset


class BlindEmbedder:
    """Random embeddings of anything, unread: shows what an evaluation measures before there is a model to judge."""

    embedding_dim = 8
    modalities = frozenset({"image", "text"})
    logit_scale = 1.0

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        draw = torch.Generator().manual_seed(0)
        return F.normalize(torch.randn(len(items), self.embedding_dim, generator=draw), dim=-1)

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        return self.embed(images, "image")

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        return self.embed(texts, "text")

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        return self.embed(range(len(dataset)), "image"), np.arange(len(dataset)), []
