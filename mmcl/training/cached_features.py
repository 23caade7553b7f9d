"""Features of frozen towers, computed once and kept on disk.

A frozen tower gives an image or a caption the same features in every epoch and every run. They are computed chunk by
chunk into files named by a hash of all they depend on: the tower's weights, its preprocessing and pooling, the
arithmetic, the data, and the augmentation of each view. What a broken run has computed is not computed again; several
processes share the chunks among them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.data.batches.collate import skipped_image
from mmcl.data.chunk_files import ALONE, Chunk, Sharing, stored_chunks
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger
from mmcl.models.fingerprint import tower_fingerprint
from mmcl.training.gather import gather_objects, rank, world_size

log = get_logger(__name__)

LAYOUT = 1  # of the files; part of every key
CHUNK_ROWS = 1024  # rows a file: what a broken-off run loses at most, and what processes share out
IN_MEMORY_BYTES = 2 * 2**30  # larger caches are read from disk row by row

# Called with what is computed, how much is done, and of how much.
ProgressCallback = Callable[[str, int, int], None]


class Encoder(Protocol):
    """What the cache needs of an encoder."""

    tower: Any
    pooling: str
    modality: str

    def features(self, **inputs: Tensor) -> Tensor: ...


class Images(Protocol):
    """What the cache needs of a data set."""

    name: str
    images: Any

    def __len__(self) -> int: ...

    def fingerprint(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Views:
    """How each cached view of a training image is made.

    Attributes:
        count: views kept of each image.
        augment: (uint8 image, seed) -> uint8 image of the tower's size; None: the plain image, one view.
        description: what ``augment`` does, for the key.
        seed: of (view, row) pairs.
    """

    count: int = 1
    augment: Callable[..., Tensor] | None = None
    description: str = ""
    seed: Callable[[int, int], int] = lambda view, row: 0


class CachedImages:
    """Features of a data set's images.

    Attributes:
        num_views: views of each image.
        skipped: rows whose image could not be read; they have no features.
    """

    def __init__(self, parts: list[np.ndarray], skipped: dict[int, SkippedRow]) -> None:
        self.num_views, self.skipped = parts[0].shape[1], skipped  # a data set has rows, so there is a part
        self._parts = parts
        total = sum(part.nbytes for part in parts)
        self._whole = torch.from_numpy(np.concatenate(parts)) if total <= IN_MEMORY_BYTES else None

    def __call__(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Rows and the view of each -> features (b, f)."""
        if self._whole is not None:
            return self._whole[torch.as_tensor(rows, dtype=torch.int64), torch.as_tensor(views, dtype=torch.int64)]
        picked = [self._parts[row // CHUNK_ROWS][row % CHUNK_ROWS, view] for row, view in zip(rows, views)]
        return torch.from_numpy(np.stack(picked))


class CachedTexts:
    """Features of captions, looked up by the caption itself."""

    def __init__(self, texts: Sequence[str], features: CachedImages) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        self._features = features

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> ``{"features": (b, f)}``."""
        rows = [self._row[text] for text in texts]
        return {"features": self._features(rows, [0] * len(rows))}


class FeatureCache:
    """Computes and finds features.

    Args:
        folder: where the files are; each key has a folder of its own.
        device: where towers run.
        batch_size: items a forward pass.
        bf16: whether towers run under bf16 autocast; features are stored in float32 all the same.
        progress: told how far it is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        bf16: bool = False,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.folder, self.device, self.batch_size, self.bf16 = folder, torch.device(device), batch_size, bf16
        self.progress = progress
        # Both keep the object beside the value, so that no other object can come to have its id.
        self._tower_keys: dict[int, tuple[Any, str]] = {}
        self._fingerprints: dict[int, tuple[Any, str]] = {}
        self._loaded: dict[str, CachedImages] = {}

    def images(
        self, encoder: Encoder, dataset: Images, *, views: Views | None = None, shared: bool = False
    ) -> CachedImages:
        """Features of every readable image of a data set.

        Args:
            encoder: its tower must be frozen.
            dataset: the images.
            views: how views are made; default one, unchanged.
            shared: true when every process calls this at once: they divide the work.
        """
        views = views or Views()
        key = self._key(encoder, self._fingerprint(dataset), views.count, views.description)

        def compute(start: int, stop: int) -> Chunk:
            return self._image_chunk(encoder, dataset, views, start, stop)

        title = f"image features of {dataset.name}"
        return self._chunks(key, len(dataset), compute, title, shared=shared)

    def texts(self, encoder: Encoder, texts: Sequence[str], *, shared: bool = False) -> CachedTexts:
        """Features of captions; repeated captions are computed once.

        Args:
            encoder: its tower must be frozen.
            texts: any captions.
            shared: see ``images``.
        """
        distinct = sorted(set(texts))
        digest = hashlib.sha256("\x1f".join(distinct).encode()).hexdigest()
        key = self._key(encoder, digest)

        def compute(start: int, stop: int) -> Chunk:
            return Chunk(self._text_chunk(encoder, distinct[start:stop]), [])

        cached = self._chunks(key, len(distinct), compute, "caption features", shared=shared)
        return CachedTexts(distinct, cached)

    # -- keys ----------------------------------------------------------------------------------------------------

    def _key(self, encoder: Encoder, *data: Any) -> str:
        parts = [LAYOUT, self._tower_key(encoder), encoder.pooling, self.bf16, self.device.type, *data]
        return f"{encoder.modality}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"

    def _fingerprint(self, dataset: Images) -> str:
        known = self._fingerprints.get(id(dataset))
        if known is None:
            known = self._fingerprints[id(dataset)] = (dataset, dataset.fingerprint())
        return known[1]

    def _tower_key(self, encoder: Encoder) -> str:
        tower = encoder.tower
        known = self._tower_keys.get(id(tower))
        if known is None:
            known = self._tower_keys[id(tower)] = (tower, tower_fingerprint(tower))
        return known[1]

    # -- chunks --------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)  # evaluators call within it; weights touched there could not be trained afterwards
    def _chunks(
        self,
        key: str,
        total: int,
        compute: Callable[[int, int], Chunk],
        title: str,
        *,
        shared: bool,
    ) -> CachedImages:
        if key in self._loaded:
            return self._loaded[key]
        folder = self.folder / key

        def found(missing: int, chunks: int) -> None:
            if missing:
                log.info("%s: computing %d of %d chunks into %s", title, missing, chunks, folder)

        try:
            chunks = stored_chunks(
                folder,
                total,
                compute,
                chunk_rows=CHUNK_ROWS,
                sharing=_all_processes() if shared else ALONE,
                progress=lambda done, of: self._tell(title, done, of),
                found=found,
            )
        except OSError as error:
            raise ConfigError(
                f"features cannot be kept in {folder} ({error.strerror or error}); set train.feature_cache.dir or "
                f"train.feature_cache.enabled=false"
            ) from error
        skipped = {row.row: row for chunk in chunks for row in chunk.skipped}
        self._loaded[key] = CachedImages([chunk.rows for chunk in chunks], skipped)
        return self._loaded[key]

    def _tell(self, title: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(title, done, total)

    @torch.inference_mode()
    def _forward(self, encoder: Encoder, inputs: dict[str, Tensor]) -> np.ndarray:
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return encoder.features(**inputs).float().cpu().numpy()

    def _image_chunk(self, encoder: Encoder, dataset: Images, views: Views, start: int, stop: int) -> Chunk:
        encoder.tower.to(self.device).eval()
        preprocessing = encoder.tower.preprocessing
        features = np.full(((stop - start) * views.count, encoder.tower.feature_dim), np.nan, np.float32)
        skipped: list[SkippedRow] = []
        pending: list[tuple[int, Tensor]] = []

        def flush() -> None:
            pixels = preprocessing.normalize(torch.stack([image for _, image in pending]))
            features[[slot for slot, _ in pending]] = self._forward(encoder, {"pixel_values": pixels})
            pending.clear()

        for row in range(start, stop):
            try:
                image = dataset.images.read(row)
            except DataError as error:
                skipped.append(skipped_image(dataset.images, row, error))
                continue
            for view in range(views.count):
                if views.augment is None:
                    pixels = preprocessing.resize_pixels(image)
                else:
                    pixels = views.augment(image, seed=views.seed(view, row))
                pending.append(((row - start) * views.count + view, pixels))
                if len(pending) >= self.batch_size:
                    flush()
                    self._tell(f"image features of {dataset.name}", row + 1, len(dataset))
        if pending:
            flush()
        return Chunk(features.reshape(stop - start, views.count, -1), skipped)

    def _text_chunk(self, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
        encoder.tower.to(self.device).eval()
        tokens = encoder.tower.preprocessing.tokens(texts)
        order = np.argsort(tokens.lengths, kind="stable")  # short with short: little padding
        features = np.empty((len(texts), 1, encoder.tower.feature_dim), np.float32)
        for begin in range(0, len(order), self.batch_size):
            chunk = order[begin : begin + self.batch_size]
            features[chunk, 0] = self._forward(encoder, tokens.batch(chunk))
        return features


def _all_processes() -> Sharing:
    return Sharing(rank(), world_size(), gather_objects)
