"""Fewer dimensions: a model that gives the first values of its embeddings alone, and what that costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from mmcl.embedder import Embedder
from mmcl.embedder.truncated import TruncatedEmbedder
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.encoder import Encoder
from mmcl.models.heads import IdentityHead, LinearHead, MlpHead

Judge = Callable[[Embedder], dict[str, Any]]


def truncate(model: DualEncoder, embedding_dim: int) -> DualEncoder:
    """A copy of a model whose embeddings are the first values of the model's own, at unit length again.

    The heads' last layers lose the rows of the other values; a model whose towers end in the shared space gets a head
    that picks the first values. Source: Kusupati et al. 2022 (arXiv:2205.13147), section 3.

    Args:
        model: the model; it is not changed.
        embedding_dim: values kept, from 2 to those of the model.

    Raises:
        ConfigError: ``embedding_dim`` is out of that range, or a head is none of mmcl's.
    """
    if not 2 <= embedding_dim <= model.embedding_dim:
        raise ConfigError(f"embedding_dim is {embedding_dim}; want 2 to {model.embedding_dim}, which the model has")
    smaller = copy.deepcopy(model)
    smaller.embedding_dim = embedding_dim
    for encoder in (smaller.image, smaller.text):
        encoder.head = _first_values(encoder, embedding_dim)
    return smaller.eval()


def _first_values(encoder: Encoder, size: int) -> nn.Module:
    head = encoder.head
    if isinstance(head, LinearHead):
        head.projection = _first_rows(head.projection, size)
        return head
    if isinstance(head, MlpHead):
        head.layers[-1] = _first_rows(head.layers[-1], size)
        return head
    if isinstance(head, IdentityHead):
        picking = LinearHead(encoder.tower.feature_dim, size)
        with torch.no_grad():
            picking.projection.weight.copy_(torch.eye(size, encoder.tower.feature_dim))
        return picking
    raise ConfigError(f"the {encoder.modality} head is a {type(head).__name__}; want one of mmcl's heads")


def _first_rows(layer: nn.Linear, size: int) -> nn.Linear:
    smaller = nn.Linear(layer.in_features, size, bias=layer.bias is not None, dtype=layer.weight.dtype)
    with torch.no_grad():
        smaller.weight.copy_(layer.weight[:size])
        if layer.bias is not None:
            smaller.bias.copy_(layer.bias[:size])
    return smaller


def default_dims(embedding_dim: int) -> list[int]:
    """The sizes that are usually looked at: the model's own, its half, and so on down to 8 at least."""
    dims = [embedding_dim]
    while dims[-1] // 2 >= min(8, embedding_dim):
        dims.append(dims[-1] // 2)
    return dims


def dimension_curve(embedder: Embedder, judge: Judge, dims: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Judge a model at several sizes of its embeddings.

    Args:
        embedder: any; a ``CachedEmbedder`` embeds once for all sizes.
        judge: an embedder to its metrics.
        dims: sizes, each from 1 to the model's own.

    Returns:
        Size -> metrics, from the largest size down.

    Raises:
        ConfigError: a size is out of range, or there is none.
    """
    if not dims:
        raise ConfigError("dims is empty; name at least one size")
    cut = [TruncatedEmbedder(embedder, size) for size in sorted(set(dims), reverse=True)]  # all checked before any work
    return {smaller.embedding_dim: judge(smaller) for smaller in cut}
