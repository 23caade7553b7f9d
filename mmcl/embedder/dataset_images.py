"""The images of a data set to embeddings, in bounded memory; what cannot be read is skipped and told."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.embedder.interface import Embedder, chunks
from mmcl.errors import DataError


def embed_readable(
    embedder: Embedder, dataset: ImageTextDataset, batch_size: int
) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
    """See ``embed_images``; whatever the embedder has of its own is not asked."""
    parts, rows, skipped = [], [], []
    for chunk in chunks(range(len(dataset)), batch_size):
        images = []
        for row in chunk:
            try:
                images.append(dataset.images.read(row))
                rows.append(row)
            except DataError as error:
                skipped.append(SkippedRow(row, dataset.images.describe(row), str(error)))
        if images:
            parts.append(embedder.embed(images, "image", batch_size=batch_size))
    embeddings = torch.cat(parts) if parts else torch.empty(0, embedder.embedding_dim)
    return embeddings, np.asarray(rows, dtype=np.int64), skipped


def embed_images(
    embedder: Embedder, dataset: ImageTextDataset, *, batch_size: int = 64
) -> tuple[Tensor, np.ndarray, list[SkippedRow]]:
    """Embed the images of a data set that can be read, in bounded memory.

    Args:
        embedder: any.
        dataset: any.
        batch_size: images a forward pass.

    Returns:
        (n, d) embeddings, the (n,) row numbers they belong to, and the rows that could not be read.
    """
    own = getattr(embedder, "embed_dataset_images", None)
    if own is not None:
        return own(dataset, batch_size=batch_size)
    return embed_readable(embedder, dataset, batch_size)
