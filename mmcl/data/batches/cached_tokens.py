"""Captions tokenised once for all epochs and runs: their tokens in mapped files, found by the caption itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from mmcl.logs import get_logger

log = get_logger(__name__)

# Told what is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]
LAYOUT = 1  # of the files; part of every key
CHUNK = 8192  # captions tokenised at a time: what is in memory as Python objects
_HASHES, _PLACES, _IDS = "hashes.npy", "places.npy", "ids.int32"
_KEY = [("high", "u8"), ("low", "u8")]


class Tokens(Protocol):
    """Captions as tokens, each as long as it is."""

    lengths: list[int]

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]: ...

    def with_ids(self, ids: Sequence[np.ndarray]) -> Tokens: ...

    def ids(self, row: int) -> np.ndarray: ...


class Tokenizing(Protocol):
    """What the cache needs of a tower's text preprocessing."""

    def tokens(self, texts: Sequence[str]) -> Tokens: ...

    def fingerprint(self) -> str: ...


class CachedTokens:
    """A tower's text preprocessing that looks captions up; the tensors are those of tokenising them anew.

    A caption is found by 128 bits of its hash, so that a million captions cost no Python objects. One that is not
    there is tokenised. The files are mapped into memory: processes and workers share them.

    Args:
        preprocessing: the tower's.
        folder: made by ``cache_tokens``.
    """

    def __init__(self, preprocessing: Tokenizing, folder: Path) -> None:
        self.preprocessing, self.folder = preprocessing, folder
        self._empty = preprocessing.tokens([])
        self._open()

    def _open(self) -> None:
        hashes, places = (np.load(self.folder / name, mmap_mode="r", allow_pickle=False) for name in (_HASHES, _PLACES))
        ids = np.memmap(self.folder / _IDS, np.int32, "r") if len(hashes) else np.zeros(0, np.int32)
        # Plain arrays over the mapped memory: slices of a np.memmap cost more than what is done with them.
        self._hashes, self._places, self._ids = np.asarray(hashes), np.asarray(places), np.asarray(ids)

    def __len__(self) -> int:
        return len(self._hashes)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_hashes", "_places", "_ids")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Captions -> the tower's text inputs."""
        return self.tokens(texts).batch(range(len(texts)))

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Captions as tokens, for batches of some of them."""
        rows = self._rows(texts)
        missing = np.flatnonzero(rows < 0)
        anew = self.preprocessing.tokens([texts[place] for place in missing]) if len(missing) else None
        found = self._places[rows] if len(self) else np.zeros(len(rows), [("start", "i8"), ("length", "i4")])
        starts = found["start"].tolist()
        ends = (found["start"] + found["length"]).tolist()
        ids: list[Any] = [self._ids[start:end] for start, end in zip(starts, ends)]
        for number, place in enumerate(missing.tolist()):
            ids[place] = anew.ids(number)
        return self._empty.with_ids(ids)

    def _rows(self, texts: Sequence[str]) -> np.ndarray:
        """Where each caption stands, -1 for those that are not there."""
        if not len(self):
            return np.full(len(texts), -1)
        keys = _keys(texts)
        rows = np.searchsorted(self._hashes, keys["high"]).clip(max=len(self) - 1)
        same = (self._hashes[rows] == keys["high"]) & (self._places["low"][rows] == keys["low"])
        return np.where(same, rows, -1)


def cache_tokens(
    preprocessing: Tokenizing,
    captions: Callable[[], Iterable[str]],
    *,
    folder: Path,
    progress: Progress | None = None,
) -> CachedTokens:
    """Tokenise the distinct captions of a data set, unless that has been done.

    Args:
        preprocessing: the tower's; its ``fingerprint`` is part of the files' key.
        captions: gives all captions, repetitions included, in the same order whenever it is called.
        folder: holds a folder for each key; made when missing. A folder appears whole or not at all.
        progress: told what is done, how many captions have been passed, and of how many.

    Raises:
        OSError: the folder cannot be written.
    """
    keys = np.concatenate([_keys([]), *(_keys(chunk) for chunk in _chunks(captions()))])
    digest = hashlib.sha256(json.dumps([LAYOUT, preprocessing.fingerprint()]).encode() + keys.tobytes())
    made = folder / digest.hexdigest()[:24]
    if not made.is_dir():
        partial = folder / f".{made.name}.{os.getpid()}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        try:
            _write(preprocessing, captions(), keys, partial, progress)
            _publish(partial, made)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    cached = CachedTokens(preprocessing, made)
    log.info("%d captions, %d of them distinct: their tokens are in %s", len(keys), len(cached), made)
    return cached


def _publish(partial: Path, made: Path) -> None:
    try:
        partial.rename(made)
    except OSError:
        if not made.is_dir():  # otherwise another process was quicker; what it wrote is the same
            raise


def _write(
    preprocessing: Tokenizing, captions: Iterable[str], keys: np.ndarray, folder: Path, progress: Progress | None
) -> None:
    """Tokens in the order in which their captions first came; hashes in ascending order, with the place of each."""
    # A caption whose first 64 bits are another's too, which is next to impossible, is left out: it is tokenised when
    # it comes.
    hashes, first = np.unique(keys["high"], return_index=True)
    wanted, lengths, done = np.zeros(len(keys), bool), np.zeros(len(keys), np.int32), 0
    wanted[first] = True
    with (folder / _IDS).open("wb") as file:
        for chunk in _chunks(captions):
            places = done + np.flatnonzero(wanted[done : done + len(chunk)])
            tokens = preprocessing.tokens([chunk[place - done] for place in places])
            lengths[places] = tokens.lengths
            for number in range(len(places)):
                np.asarray(tokens.ids(number), dtype=np.int32).tofile(file)
            done += len(chunk)
            if progress is not None:
                progress("tokens of captions", done, len(keys))
    places = np.zeros(len(first), [("low", "u8"), ("start", "i8"), ("length", "i4")])
    places["low"], places["length"] = keys["low"][first], lengths[first]
    places["start"] = (np.cumsum(lengths, dtype=np.int64) - lengths)[first]
    np.save(folder / _HASHES, hashes, allow_pickle=False)
    np.save(folder / _PLACES, places, allow_pickle=False)


def _chunks(captions: Iterable[str]) -> Iterator[list[str]]:
    captions = iter(captions)
    while chunk := list(islice(captions, CHUNK)):
        yield chunk


def _keys(texts: Sequence[str]) -> np.ndarray:
    """(n,) pairs of uint64: 128 bits of each caption's hash."""
    digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=_KEY)
