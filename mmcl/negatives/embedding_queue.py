"""`EmbeddingQueue`: embeddings of earlier steps, first in, first out, as further negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl.errors import ConfigError, ShapeError


class EmbeddingQueue(nn.Module):
    """The newest ``size`` pairs of embeddings that were put in, with the groups they belong to.

    Everything is a buffer, so a checkpoint holds it. On several processes each holds the same queue, as long as the
    same rows are put in everywhere.

    Args:
        size: pairs kept, at least 1.
        embedding_dim: values of an embedding.

    Raises:
        ConfigError: size or embedding_dim is below 1.

    Source: He et al. 2020 (arXiv:1911.05722) section 3.2. Unlike theirs, which starts full of random vectors, an unused
    place is no negative, and a batch need not divide the size.

    Example:
        >>> import torch
        >>> queue = EmbeddingQueue(3, 2)
        >>> queue.put(torch.eye(2), torch.eye(2), torch.tensor([7, 8]))
        >>> len(queue), queue.group_ids.tolist()
        (2, [7, 8])
    """

    def __init__(self, size: int, embedding_dim: int) -> None:
        super().__init__()
        for name, value in (("size", size), ("embedding_dim", embedding_dim)):
            if value < 1:
                raise ConfigError(f"{name} of a queue is {value}; want 1 or more")
        self.size = size
        self.register_buffer("image_keys", torch.zeros(size, embedding_dim))
        self.register_buffer("text_keys", torch.zeros(size, embedding_dim))
        self.register_buffer("key_groups", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))  # where the next row goes
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))  # places that hold a row

    def __len__(self) -> int:
        """Pairs that are in it."""
        return int(self.count)

    @property
    def image(self) -> Tensor:
        """(k, d) float32 image embeddings, in no particular order; the caller must not change them."""
        return self.image_keys[: len(self)]

    @property
    def text(self) -> Tensor:
        """(k, d) float32 text embeddings; row i belongs with image i."""
        return self.text_keys[: len(self)]

    @property
    def group_ids(self) -> Tensor:
        """(k,) int64."""
        return self.key_groups[: len(self)]

    @torch.no_grad()
    def put(self, image: Tensor, text: Tensor, group_ids: Tensor) -> None:
        """Put rows in; they push the oldest ones out. Of more rows than the queue is long the last ones stay.

        Args:
            image, text: (b, d) embeddings, kept in float32. None at all changes nothing.
            group_ids: (b,) int64.

        Raises:
            ShapeError: the three do not fit one another or the queue.
        """
        wanted = (len(group_ids), self.image_keys.shape[1])
        for name, rows in (("image", image), ("text", text)):
            if rows.shape != wanted:
                raise ShapeError(f"{name} of a queue's rows needs shape {wanted}, got {tuple(rows.shape)}")
        number = min(len(group_ids), self.size)
        places = (self.position + torch.arange(number, device=self.position.device)) % self.size
        kept = len(group_ids) - number
        self.image_keys[places] = image[kept:].to(self.image_keys)
        self.text_keys[places] = text[kept:].to(self.text_keys)
        self.key_groups[places] = group_ids[kept:].to(self.key_groups)
        self.position.add_(number).remainder_(self.size)
        self.count.add_(number).clamp_(max=self.size)
