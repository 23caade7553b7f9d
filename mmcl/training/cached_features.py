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
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmcl.batch import SkippedRow
from mmcl.errors import DataError
from mmcl.logs import get_logger
from mmcl.training.gather import rank, world_size

log = get_logger(__name__)

CHUNK_ROWS = 4096
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
        self._progress = progress
        self._tower_keys: dict[int, tuple[Any, str]] = {}

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
        key = self._key(encoder, dataset.fingerprint(), views.count, views.description)

        def compute(start: int, stop: int) -> tuple[np.ndarray, list[SkippedRow]]:
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

        def compute(start: int, stop: int) -> tuple[np.ndarray, list[SkippedRow]]:
            return self._text_chunk(encoder, distinct[start:stop]), []

        cached = self._chunks(key, len(distinct), compute, "caption features", shared=shared)
        return CachedTexts(distinct, cached)

    # -- keys ----------------------------------------------------------------------------------------------------

    def _key(self, encoder: Encoder, *data: Any) -> str:
        parts = [self._tower_key(encoder), encoder.pooling, self.bf16, self.device.type, *data]
        return f"{encoder.modality}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]}"

    def _tower_key(self, encoder: Encoder) -> str:
        tower = encoder.tower
        known = self._tower_keys.get(id(tower))
        if known is not None and known[0] is tower:
            return known[1]
        digest = hashlib.blake2b()
        for name, tensor in tower.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        preprocessing = tower.preprocessing
        fingerprint = getattr(preprocessing, "fingerprint", lambda: json.dumps(preprocessing.to_dict()))
        digest.update(fingerprint().encode())
        self._tower_keys[id(tower)] = (tower, digest.hexdigest())
        return digest.hexdigest()

    # -- chunks --------------------------------------------------------------------------------------------------

    def _chunks(
        self,
        key: str,
        total: int,
        compute: Callable[[int, int], tuple[np.ndarray, list[SkippedRow]]],
        title: str,
        *,
        shared: bool,
    ) -> CachedImages:
        folder = self.folder / key
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, total, CHUNK_ROWS)
        mine = starts[rank() :: world_size()] if shared else starts
        missing = [start for start in mine if not _is_written(folder, start)]
        if missing:
            log.info("%s: computing %d of %d chunks into %s", title, len(missing), len(starts), folder)
        for start in missing:
            stop = min(total, start + CHUNK_ROWS)
            self._tell(title, start, total)
            features, skipped = compute(start, stop)
            _write_chunk(folder, start, features, skipped)
            self._tell(title, stop, total)
        if shared and world_size() > 1:
            torch.distributed.barrier()
        parts, skipped_rows = [], {}
        for start in starts:
            parts.append(np.load(_path(folder, start, ".npy"), mmap_mode="r", allow_pickle=False))
            for row in json.loads(_path(folder, start, ".json").read_text(encoding="utf-8")):
                skipped_rows[row["row"]] = SkippedRow(**row)
        return CachedImages(parts, skipped_rows)

    def _tell(self, title: str, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(title, done, total)

    @torch.inference_mode()
    def _forward(self, encoder: Encoder, inputs: dict[str, Tensor]) -> np.ndarray:
        inputs = {name: value.to(self.device) for name, value in inputs.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            return encoder.features(**inputs).float().cpu().numpy()

    def _image_chunk(
        self, encoder: Encoder, dataset: Images, views: Views, start: int, stop: int
    ) -> tuple[np.ndarray, list[SkippedRow]]:
        encoder.tower.to(self.device).eval()
        preprocessing = encoder.tower.preprocessing
        features: np.ndarray | None = None
        skipped: list[SkippedRow] = []
        pending: list[tuple[int, Tensor]] = []

        def flush() -> None:
            nonlocal features
            pixels = preprocessing.normalize(torch.stack([image for _, image in pending]))
            values = self._forward(encoder, {"pixel_values": pixels})
            if features is None:
                features = np.full(((stop - start) * views.count, values.shape[1]), np.nan, np.float32)
            features[[slot for slot, _ in pending]] = values
            pending.clear()

        for row in range(start, stop):
            try:
                image = dataset.images.read(row)
            except DataError as error:
                skipped.append(SkippedRow(row, dataset.images.describe(row), str(error)))
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
        if features is None:
            raise DataError(
                f"{dataset.name}: none of the rows {start} to {stop - 1} has a readable image ({skipped[0].reason})"
            )
        return features.reshape(stop - start, views.count, -1), skipped

    def _text_chunk(self, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
        encoder.tower.to(self.device).eval()
        tokenize = encoder.tower.preprocessing
        order = np.argsort(tokenize.lengths(texts), kind="stable")  # short with short: little padding
        features: np.ndarray | None = None
        for begin in range(0, len(order), self.batch_size):
            chunk = order[begin : begin + self.batch_size]
            values = self._forward(encoder, tokenize([texts[i] for i in chunk]))
            if features is None:
                features = np.empty((len(texts), 1, values.shape[1]), np.float32)
            features[chunk, 0] = values
        return features


def _path(folder: Path, start: int, suffix: str) -> Path:
    return folder / f"rows_{start:09d}{suffix}"


def _is_written(folder: Path, start: int) -> bool:
    return _path(folder, start, ".json").exists()  # written last


def _write_chunk(folder: Path, start: int, features: np.ndarray, skipped: list[SkippedRow]) -> None:
    """Each file appears whole, the list of skipped rows last."""
    array, rows = _path(folder, start, ".npy"), _path(folder, start, ".json")
    partial = folder / f".{start}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        np.save(file, features, allow_pickle=False)
    os.replace(partial, array)
    partial.write_text(json.dumps([dataclasses.asdict(row) for row in skipped], ensure_ascii=False), encoding="utf-8")
    os.replace(partial, rows)
