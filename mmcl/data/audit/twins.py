"""`find_twins`: rows whose images are the same, in all bytes, in all pixels, or to the eye."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from mmcl.data.audit.hash_pairs import FEW, hash_pairs
from mmcl.errors import DataError

if TYPE_CHECKING:
    from mmcl.data.audit.audited import Audited

A_HASH = 8  # images of one hash of which all pairs are compared; further ones are compared with these
AT_A_TIME = 256  # pairs
_ASPECT = 1.2  # pictures of shapes that differ by more are no crops of one another
_COMPARING = "comparing like images"


@dataclass(frozen=True)
class Twins:
    """Rows with the same image.

    Attributes:
        same: (n,) int64, equal for rows whose encoded images are equal in all bytes; -1 for unreadable and blank ones.
        pairs: (p, 2) int64, first < second: pairs of different bytes that show the same.
        difference: (p,) float32, see ``aligned_difference``; 0 where all pixels are equal.
        compared: pairs that were looked at.
    """

    same: np.ndarray
    pairs: np.ndarray
    difference: np.ndarray
    compared: int


def find_twins(audited: Audited, further: np.ndarray | None = None) -> Twins:
    """Compare the images whose perceptual hashes are close.

    Blank images are left out: they are all alike. One image stands for those that equal it in all bytes; of images with
    one hash the first eight are compared with one another and with all others of it. Memory is bounded: pictures to be
    compared lie in a temporary file.

    Args:
        audited: the data.
        further: (k, 2) pairs of rows that are to be compared too.
    """
    shown = pc.is_null(audited.facts["problem"]).to_numpy() & (
        audited.numbers("std", missing=0) >= audited.limits.blank_std
    )
    same = _equal_bytes(audited, shown)
    first = np.unique(same, return_index=True)[1]
    rows = np.sort(first[same[first] >= 0])
    candidates = np.concatenate([_candidates(audited, rows), _by_first(further, same)])
    candidates = np.unique(candidates[_alike_in_shape(audited, candidates)], axis=0)
    pairs, difference = _compare(audited, candidates)
    return Twins(same, pairs, difference, len(candidates))


def _equal_bytes(audited: Audited, shown: np.ndarray) -> np.ndarray:
    digests = audited.facts["digest"].combine_chunks()
    filled = pc.fill_null(digests, b"\0" * 16)
    halves = np.frombuffer(filled.buffers()[1], dtype=np.uint64)[2 * filled.offset :][: 2 * len(filled)].reshape(-1, 2)
    keys = np.ascontiguousarray(halves).view([("a", np.uint64), ("b", np.uint64)]).reshape(-1)
    codes = np.unique(keys, return_inverse=True)[1].reshape(-1)
    return np.where(shown, codes, -1)


def _by_first(pairs: np.ndarray | None, same: np.ndarray) -> np.ndarray:
    """Pairs of shown images of different bytes, each image replaced by the first that equals it."""
    if pairs is None or not len(pairs):
        return np.zeros((0, 2), dtype=np.int64)
    first = np.full(int(same.max(initial=-1)) + 1, -1, dtype=np.int64)
    rows = np.flatnonzero(same >= 0)
    first[same[rows][::-1]] = rows[::-1]
    pairs = pairs[(same[pairs] >= 0).all(axis=1)]
    pairs = np.sort(first[same[pairs]], axis=1)
    return pairs[pairs[:, 0] != pairs[:, 1]]


def _candidates(audited: Audited, rows: np.ndarray) -> np.ndarray:
    """(c, 2) pairs of these rows with close hashes."""
    hashes = audited.numbers("phash", missing=0)[rows]
    distinct, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    order = rows[np.argsort(inverse, kind="stable")]  # by hash, then by row
    starts = np.cumsum(counts) - counts
    of_each = np.minimum(counts, A_HASH)
    parts = [np.zeros((0, 2), dtype=np.int64)]
    for number in np.flatnonzero(counts > 1):
        members = order[starts[number] : starts[number] + counts[number]]
        left, right = np.meshgrid(members[: of_each[number]], members, indexing="ij")
        parts.append(np.stack([left[left < right], right[left < right]], axis=1))
    limits = audited.limits
    bits = limits.near_bits if len(distinct) <= FEW else min(limits.near_bits, limits.near_bits_many)
    for one, other in hash_pairs(distinct, bits):
        left = order[starts[one] : starts[one] + of_each[one]]
        right = order[starts[other] : starts[other] + of_each[other]]
        parts.append(np.stack(np.meshgrid(left, right), axis=-1).reshape(-1, 2))
    return np.sort(np.concatenate(parts), axis=1)


def _alike_in_shape(audited: Audited, pairs: np.ndarray) -> np.ndarray:
    width, height = (audited.numbers(side, missing=1).astype(np.float64) for side in ("width", "height"))
    aspect = width / np.maximum(height, 1)
    # A file may be stored turned: both ways round are possible then.
    either = pc.fill_null(audited.facts["rotated"], False).to_numpy()
    ratio = aspect[pairs[:, 0]] / aspect[pairs[:, 1]]
    alike = (ratio <= _ASPECT) & (ratio >= 1 / _ASPECT)
    return alike | either[pairs].any(axis=1)


def _compare(audited: Audited, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs that show the same, and their differences."""
    import torch

    from mmcl.data.audit.alignment import aligned_difference

    rows = np.unique(candidates)
    if not len(rows):
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32)
    kept, differences = [], []
    with tempfile.TemporaryFile() as file:
        small = _small_pictures(audited, rows, file)
        for part in _parts(candidates, audited):
            sides = [torch.from_numpy(small[np.searchsorted(rows, part[:, side])]).float() / 255 for side in (0, 1)]
            difference = aligned_difference(*sides).numpy()
            near = difference <= audited.limits.near_difference
            kept.append(part[near])
            differences += [_exact(audited, pair, value) for pair, value in zip(part[near], difference[near])]
        del small
    return np.concatenate(kept), np.array(differences, dtype=np.float32)


def _parts(candidates: np.ndarray, audited: Audited) -> Iterator[np.ndarray]:
    for start in range(0, len(candidates), AT_A_TIME):
        yield candidates[start : start + AT_A_TIME]
        audited.tell(_COMPARING, min(len(candidates), start + AT_A_TIME), len(candidates))


def _small_pictures(audited: Audited, rows: np.ndarray, file: object) -> np.ndarray:
    """(k, 3, 48, 48) uint8, mapped from the file; random noise for an image that cannot be read again."""
    from PIL import Image

    from mmcl.data.audit.alignment import SIDE

    small = np.memmap(file, dtype=np.uint8, mode="w+", shape=(len(rows), 3, SIDE, SIDE))
    for place, row in enumerate(rows):
        try:
            picture = Image.fromarray(audited.read(int(row)).permute(1, 2, 0).contiguous().numpy())
        except DataError:  # changed since the scan: like nothing else
            small[place] = np.random.default_rng(int(row)).integers(0, 256, small[place].shape, dtype=np.uint8)
            continue
        small[place] = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        if place % AT_A_TIME == 0:
            audited.tell("reading like images", place, len(rows))
    audited.tell("reading like images", len(rows), len(rows))
    return small


def _exact(audited: Audited, pair: np.ndarray, difference: float) -> float:
    """0 where all pixels are equal; otherwise the difference, above 0."""
    if difference < 1e-3:
        first, second = (audited.read(int(row)) for row in pair)
        if first.shape == second.shape and bool((first == second).all()):
            return 0.0
    return max(float(difference), 1e-6)
