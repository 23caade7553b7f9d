"""Features of frozen towers for a plan: those that are kept are read, the others made up after a few were computed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.data.chunk_files import Chunk, read_chunk
from mmcl.training import cached_features
from mmcl.training.cached_features import CHUNK_ROWS, CachedImages, FeatureCache

WARM_UP = 8  # items: what a first pass prepares is no item's
TIMED_SECONDS = 5.0  # about so long a tower is timed
MOST_SECONDS = 60.0  # a forward pass that would take longer is not tried


@dataclass
class Asked:
    """Features that a run will ask for.

    Attributes:
        modality: "image" or "text".
        title: of the work.
        total, missing: items; those of ``total`` that no file holds.
        seconds_each: to compute one (all its views); 0 where nothing is missing.
        bytes_each: on disk.
    """

    modality: str
    title: str
    total: int
    missing: int
    seconds_each: float = 0.0
    bytes_each: int = 0


class StandInFeatures(FeatureCache):
    """A cache that writes nothing: what it does not find it makes up, in the right shape and number.

    Args:
        folder: the real cache's.
        timed: whether towers are run on so many items that their speed and their memory show; else on two.
        keep: compute and write everything, as a training would.
        arguments: of ``FeatureCache``.

    Attributes:
        asked: what was asked for, by key.
        seconds: spent in computing features.
        untried: modalities whose forward pass was too slow to be tried at its full size.
    """

    def __init__(self, folder: Path, *, timed: bool, keep: bool = False, **arguments: Any) -> None:
        super().__init__(folder, **arguments)
        self._timed, self._keep, self._in_part = timed, keep, False
        self.asked: dict[str, Asked] = {}
        self.seconds, self.untried = 0.0, set()
        self._rows: dict[str, np.ndarray] = {}  # some features of each modality
        self._speeds: dict[str, float] = {}  # seconds an item and view

    @contextmanager
    def parts(self) -> Iterator[None]:
        """Within it, what is asked for is part of what was asked for before: made up, and not counted."""
        self._in_part = True
        try:
            yield
        finally:
            self._in_part = False

    def _chunks(
        self, key: str, total: int, compute: Callable[[int, int], Chunk], title: str, *, shared: bool
    ) -> CachedImages:
        if key in self._loaded:
            return self._loaded[key]
        modality = key.partition("-")[0]
        missing = [start for start in range(0, total, CHUNK_ROWS) if read_chunk(self.folder / key, start) is None]
        if not missing or (self._keep and not self._in_part):
            self.asked[key] = Asked(modality, title, total, 0)
            begun = time.perf_counter()
            found = super()._chunks(key, total, compute, title, shared=shared)  # where all is there, it only reads
            if missing:
                self.seconds += time.perf_counter() - begun
            elif total:
                self._rows.setdefault(modality, found(range(min(total, 64)), [0] * min(total, 64)).numpy()[:, None])
            return found
        sample = self._sample(modality, total, compute)
        if not self._in_part:
            rows = sum(min(CHUNK_ROWS, total - start) for start in missing)
            each = self._speeds.get(modality, 0.0) * sample.shape[1]
            self.asked[key] = Asked(modality, title, total, rows, each, int(sample[0].nbytes))
        self._loaded[key] = CachedImages(_made_up(sample, total), {})
        return self._loaded[key]

    def _sample(self, modality: str, total: int, compute: Callable[[int, int], Chunk]) -> np.ndarray:
        """Some features, of the shape that these data ask for; what it costs to compute them is learnt by the way."""
        if self._in_part and modality in self._rows:
            return self._rows[modality][:, :1]
        begun = time.perf_counter()
        if self._timed and modality not in self._speeds:
            rows, seconds = self._run(modality, total, compute)
            self._speeds[modality] = seconds / rows.shape[1]
        else:
            rows = _finite_rows(compute(0, min(total, 2)).rows)
        self.seconds += time.perf_counter() - begun
        self._rows[modality] = rows
        return rows

    def _run(self, modality: str, total: int, compute: Callable[[int, int], Chunk]) -> tuple[np.ndarray, float]:
        """Features, and the seconds each took: of a few items to warm up, then of whole forward passes."""
        few = min(total, WARM_UP)
        _timed(compute, 0, few)
        rows, seconds = _timed(compute, 0, few)
        each = seconds / few
        if each * self.batch_size > MOST_SECONDS:
            self.untried.add(modality)
            return rows, each
        passes = max(1, int(TIMED_SECONDS / max(each, 1e-6) / self.batch_size))
        number = min(total, CHUNK_ROWS, passes * self.batch_size)
        start = (total - number) // 2  # captions are sorted: the first are not like the others
        rows, seconds = _timed(compute, start, start + number)
        return rows, seconds / number


def _timed(compute: Callable[[int, int], Chunk], start: int, stop: int) -> tuple[np.ndarray, float]:
    begun = time.perf_counter()
    rows = compute(start, stop).rows
    return _finite_rows(rows), time.perf_counter() - begun


def _finite_rows(rows: np.ndarray) -> np.ndarray:
    """Without those that could not be computed; zeros where none could."""
    good = rows[np.isfinite(rows).all(axis=tuple(range(1, rows.ndim)))]
    return good if len(good) else np.zeros((1, *rows.shape[1:]), np.float32)


def _made_up(sample: np.ndarray, total: int) -> list[np.ndarray]:
    """Parts of (total, ...) features like those of the sample, no two the same.

    Of as many as a training would read from disk row by row, one part is made, which stands for all: a plan takes no
    memory that the training does not.
    """
    draw = np.random.default_rng(0)
    from_disk = total * sample[0].nbytes > cached_features.IN_MEMORY_BYTES
    number = min(total, CHUNK_ROWS) if from_disk else total
    made = draw.standard_normal((number, *sample.shape[1:]), dtype=np.float32)
    made *= sample.std() / 2 + 1e-3
    made += sample[np.arange(number) % len(sample)]
    if not from_disk:
        return [made]
    return [made[: min(CHUNK_ROWS, total - start)] for start in range(0, total, CHUNK_ROWS)]
