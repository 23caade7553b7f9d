"""`TruncatedEmbedder`: the first values of another model's embeddings, at unit length again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder.cached import fingerprint
from mmcl.embedder.dataset_images import embed_images
from mmcl.embedder.interface import Embedder, EncodeMixin
from mmcl.errors import ConfigError


class TruncatedEmbedder(EncodeMixin):
    """An embedder that keeps the first ``embedding_dim`` values of another's embeddings.

    Meant for models trained with ``loss.matryoshka_dims``; of any other model the first values are no better than any.
    A row whose first values are all zero stays zero. Source: Kusupati et al. 2022 (arXiv:2205.13147), section 3.

    Args:
        inner: any; wrap a ``CachedEmbedder`` to embed once for all sizes.
        embedding_dim: values kept, from 1 to those of ``inner``.

    Raises:
        ConfigError: ``embedding_dim`` is out of that range.
    """

    def __init__(self, inner: Embedder, embedding_dim: int) -> None:
        if not 1 <= embedding_dim <= inner.embedding_dim:
            raise ConfigError(f"embedding_dim is {embedding_dim}; want 1 to {inner.embedding_dim}, which the model has")
        self.inner, self.embedding_dim, self.modalities = inner, embedding_dim, inner.modalities

    @property
    def logit_scale(self) -> float:
        """The factor from scores to logits."""
        return self.inner.logit_scale

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings; see ``Embedder``."""
        return self._cut(self.inner.embed(items, modality, batch_size=batch_size))

    def embed_dataset_images(
        self, dataset: ImageTextDataset, *, batch_size: int = 64
    ) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
        """See ``embed_images``."""
        embeddings, rows, skipped = embed_images(self.inner, dataset, batch_size=batch_size)
        return self._cut(embeddings), rows, skipped

    def fingerprint(self) -> str | None:
        """A hash of the inner model's and the size; None where that one cannot say."""
        own = fingerprint(self.inner)
        return own and hashlib.blake2b(f"{own} {self.embedding_dim}".encode()).hexdigest()

    def _cut(self, embeddings: Tensor) -> Tensor:
        return F.normalize(embeddings[:, : self.embedding_dim], dim=-1)
