"""`Embedder`: raw items in, unit vectors out; and what all embedders share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from mmcl.errors import ConfigError, ShapeError


class Embedder(Protocol):
    """What evaluators, indexes and plots know of a model.

    Attributes:
        embedding_dim: d.
        modalities: a subset of ``{"image", "text"}``.
        logit_scale: from scores to logits.
    """

    embedding_dim: int
    modalities: frozenset[str]
    logit_scale: float

    def embed(self, items: Sequence[Any], modality: str, *, batch_size: int = 64) -> Tensor:
        """Items to embeddings: float32 on the CPU, (n, d), unit rows, in order, no gradient; n = 0 gives (0, d)."""
        ...

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        """``embed`` of images: paths, encoded bytes, PIL images, uint8 tensors (3, h, w) or arrays (h, w, 3)."""
        ...

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """``embed`` of texts."""
        ...


def chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The items in order, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def check_modality(modality: str, modalities: frozenset[str]) -> None:
    """Refuse a modality that a model does not embed.

    Raises:
        ConfigError: names those that it does.
    """
    if modality not in modalities:
        raise ConfigError(f"modality is {modality!r}; this model embeds {', '.join(sorted(modalities))}")


def check_items(items: Sequence[Any], modality: str, batch_size: int, *, modalities: frozenset[str]) -> None:
    """Refuse what cannot be embedded, before any work is done.

    Args:
        items: what was given.
        modality: what they are said to be.
        batch_size: items a forward pass.
        modalities: what the model embeds.

    Raises:
        ConfigError: ``batch_size`` is below 1, or the model lacks the modality.
        ShapeError: ``items`` is no list (one text, a generator), or holds something else than texts.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; want at least 1")
    check_modality(modality, modalities)
    if isinstance(items, (str, bytes)) or not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise ShapeError(f"items is a {type(items).__name__}; want a list of {modality}s, even of one")
    if modality == "text":
        for row, item in enumerate(items):
            if not isinstance(item, str):
                raise ShapeError(f"text {row} is a {type(item).__name__}; want a string")


class EncodeMixin:
    """The field's names for the two calls people make most, and the checks of ``embed``."""

    modalities: frozenset[str]

    def encode_image(self, images: Sequence[Any], *, batch_size: int = 64) -> Tensor:
        """Images to embeddings (n, d); see ``embed``."""
        return self.embed(images, "image", batch_size=batch_size)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Texts to embeddings (n, d); see ``embed``."""
        return self.embed(texts, "text", batch_size=batch_size)

    def _check(self, items: Sequence[Any], modality: str, batch_size: int) -> None:
        check_items(items, modality, batch_size, modalities=self.modalities)
