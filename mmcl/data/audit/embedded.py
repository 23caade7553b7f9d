"""`Embedded`: what a model makes of the audited images and captions, mapped from disk where it is large."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mmcl.errors import ShapeError

if TYPE_CHECKING:
    from mmcl.data.audit.audited import Audited

TEXTS_AT_A_TIME = 4096
ROWS_AT_A_TIME = 4096
TILE = 16384
_EMBEDDING = "embedding captions"


class Embedded:
    """Embeddings of all readable images and of all captions.

    Attributes:
        images: (n, d) float32; NaN where an image cannot be read.
        texts: (m, d) float32, one for each code of ``audited.captions``.

    Args:
        audited: the data; it has a model.

    Raises:
        ShapeError: an embedding is not finite.
    """

    def __init__(self, audited: Audited) -> None:
        dim = audited.embed.embedding_dim
        self._files = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 - they live as long as the maps
        self.images = self._map(0, (len(audited), dim))
        for start, dataset in zip(audited.starts, audited.datasets):
            embeddings, rows = audited.embed.images(dataset)
            _check_finite("image", embeddings)
            self.images[start : start + len(dataset)] = np.nan
            for part in range(0, len(rows), ROWS_AT_A_TIME):
                chosen = slice(part, part + ROWS_AT_A_TIME)
                self.images[start + np.asarray(rows)[chosen]] = embeddings[chosen].numpy()
        self.texts = self._texts(audited, dim)

    def _map(self, file: int, shape: tuple[int, int]) -> np.ndarray:
        if not shape[0]:
            return np.zeros(shape, dtype=np.float32)
        return np.memmap(self._files[file], dtype=np.float32, mode="w+", shape=shape)

    def _texts(self, audited: Audited, dim: int) -> np.ndarray:
        captions = audited.captions
        codes, first = np.unique(captions.codes, return_index=True)
        texts = self._map(1, (int(captions.codes.max(initial=-1)) + 1, dim))
        for start in range(0, len(codes), TEXTS_AT_A_TIME):
            chosen = slice(start, start + TEXTS_AT_A_TIME)
            embeddings = audited.embed.texts(captions.texts.take(first[chosen]).to_pylist())
            _check_finite("caption", embeddings)
            texts[codes[chosen]] = embeddings.numpy()
            audited.tell(_EMBEDDING, min(len(codes), start + TEXTS_AT_A_TIME), len(codes))
        return texts


def _check_finite(what: str, embeddings: Tensor) -> None:
    for start in range(0, len(embeddings), ROWS_AT_A_TIME):
        if not torch.isfinite(embeddings[start : start + ROWS_AT_A_TIME]).all():
            raise ShapeError(f"{what} embeddings hold NaN or infinity; want finite unit vectors from the model")


def nearest_images(audited: Audited, number: int, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """(p, 2) pairs of rows, first < second, one of which has the other among its nearest; and their (p,) cosines.

    All images are compared with all, a tile of scores at a time: memory is bounded, work grows with the square of the
    rows.

    Args:
        audited: the data.
        number: nearest of each.
        cosine: those less alike are left out.
    """
    images, device = audited.embedded.images, audited.embed.device
    rows = np.flatnonzero(~np.isnan(images[:, 0]))
    pairs, cosines = [np.zeros((0, 2), dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        own = rows[start : start + ROWS_AT_A_TIME]
        query = torch.from_numpy(images[own]).to(device)
        best = torch.full((len(own), number), -2.0, device=device)
        where = torch.zeros(len(own), number, dtype=torch.int64, device=device)
        for tile in range(0, len(rows), TILE):
            others = rows[tile : tile + TILE]
            scores = query @ torch.from_numpy(images[others]).to(device).T
            ids = torch.from_numpy(others).to(device)
            scores[torch.from_numpy(own).to(device)[:, None] == ids[None]] = -2.0
            scores = torch.cat([best, scores], 1)
            best, place = scores.topk(number, dim=1)
            where = torch.where(
                place < number, where.gather(1, place.clamp_max(number - 1)), ids[(place - number).clamp_min(0)]
            )
        near = (best >= cosine).cpu().numpy()
        found = np.stack([np.broadcast_to(own[:, None], near.shape)[near], where.cpu().numpy()[near]], axis=1)
        pairs.append(np.sort(found, axis=1))
        cosines.append(best.cpu().numpy()[near])
        audited.tell("nearest images", min(len(rows), start + ROWS_AT_A_TIME), len(rows))
    found, places = np.unique(np.concatenate(pairs), axis=0, return_index=True)
    return found, np.concatenate(cosines)[places]
