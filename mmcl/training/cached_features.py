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
from mmcl.data.collate import skipped_image
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger
from mmcl.training.gather import broadcast_object, rank, world_size

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
        self._progress = progress
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
            known = self._tower_keys[id(tower)] = (tower, _tower_hash(tower))
        return known[1]

    # -- chunks --------------------------------------------------------------------------------------------------

    @torch.inference_mode(False)  # evaluators call within it; weights touched there could not be trained afterwards
    def _chunks(
        self,
        key: str,
        total: int,
        compute: Callable[[int, int], tuple[np.ndarray, list[SkippedRow]]],
        title: str,
        *,
        shared: bool,
    ) -> CachedImages:
        if key in self._loaded:
            return self._loaded[key]
        folder = self.folder / key
        starts = range(0, total, CHUNK_ROWS)
        chunks = {start: _read_chunk(folder, start) for start in starts}
        missing = [start for start in starts if chunks[start] is None]
        mine = missing
        if shared and world_size() > 1:
            # One process after another reads a chunk as missing or not while others write: agree on one list.
            missing = broadcast_object(missing)
            mine = missing[rank() :: world_size()]
        if missing:
            log.info("%s: computing %d of %d chunks into %s", title, len(missing), len(starts), folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for start in mine:
                stop = min(total, start + CHUNK_ROWS)
                self._tell(title, start, total)
                _write_chunk(folder, start, *compute(start, stop))
                self._tell(title, stop, total)
            if shared and world_size() > 1:
                torch.distributed.barrier()
            for start in missing:
                chunks[start] = _read_chunk(folder, start)
                if chunks[start] is None:  # another machine wrote it on a disk of its own
                    _write_chunk(folder, start, *compute(start, min(total, start + CHUNK_ROWS)))
                    chunks[start] = _read_chunk(folder, start)
        except OSError as error:
            raise ConfigError(
                f"features cannot be kept in {folder} ({error.strerror or error}); set train.feature_cache.dir or "
                f"train.feature_cache.enabled=false"
            ) from error
        skipped = {row.row: row for start in starts for row in chunks[start][1]}
        self._loaded[key] = CachedImages([chunks[start][0] for start in starts], skipped)
        return self._loaded[key]

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
        return features.reshape(stop - start, views.count, -1), skipped

    def _text_chunk(self, encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
        encoder.tower.to(self.device).eval()
        tokenize = encoder.tower.preprocessing
        order = np.argsort(tokenize.lengths(texts), kind="stable")  # short with short: little padding
        features = np.empty((len(texts), 1, encoder.tower.feature_dim), np.float32)
        for begin in range(0, len(order), self.batch_size):
            chunk = order[begin : begin + self.batch_size]
            features[chunk, 0] = self._forward(encoder, tokenize([texts[i] for i in chunk]))
        return features


def _tower_hash(tower: Any) -> str:
    """Changes with anything that changes a tower's features: weights, inputs, and what its config says beside them."""
    digest = hashlib.blake2b()
    for name, tensor in tower.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    preprocessing = tower.preprocessing
    fingerprint = getattr(preprocessing, "fingerprint", lambda: json.dumps(preprocessing.to_dict(), sort_keys=True))
    digest.update(fingerprint().encode())
    config = tower.spec.get("config") or tower.spec.get("options") or {}
    told = {key: value for key, value in config.items() if not key.startswith("_") and key not in _NOT_IN_FEATURES}
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()


# What a config says of where it came from; the number of heads or a norm's epsilon, by contrast, are in no weight.
_NOT_IN_FEATURES = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version", "model_type"})


def _path(folder: Path, start: int, suffix: str) -> Path:
    return folder / f"rows_{start:09d}{suffix}"


def _read_chunk(folder: Path, start: int) -> tuple[np.ndarray, list[SkippedRow]] | None:
    """A chunk's features and skipped rows; None where it is not written, or damaged."""
    try:
        rows = json.loads(_path(folder, start, ".json").read_text(encoding="utf-8"))  # written last
        features = np.load(_path(folder, start, ".npy"), mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, NotADirectoryError, ValueError, EOFError):
        return None
    return features, [SkippedRow(**row) for row in rows]


def _write_chunk(folder: Path, start: int, features: np.ndarray, skipped: list[SkippedRow]) -> None:
    """Each file appears whole, the list of skipped rows last."""
    array, rows = _path(folder, start, ".npy"), _path(folder, start, ".json")
    partial = folder / f".{start}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        np.save(file, features, allow_pickle=False)
    os.replace(partial, array)
    partial.write_text(json.dumps([dataclasses.asdict(row) for row in skipped], ensure_ascii=False), encoding="utf-8")
    os.replace(partial, rows)
