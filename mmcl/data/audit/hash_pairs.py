"""Pairs of 64-bit hashes that differ in few bits, found without comparing all with all."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from mmcl.data.scan.perceptual_hash import hamming

BANDS = 4
BAND_BITS = 64 // BANDS
FEW = 8192  # hashes: up to so many, all are compared with all
PAIRS_AT_A_TIME = 1 << 22  # 64 MiB of numbers


def hash_pairs(hashes: np.ndarray, bits: int) -> np.ndarray:
    """All pairs of hashes that differ in at most ``bits`` bits.

    Hashes are cut into 4 bands of 16 bits. Of two that differ in ``bits`` bits, at least one band differs in
    ``bits // 4`` at most: for each band and each way of flipping so few bits, equal bands are looked up in sorted
    order, and the candidates compared whole. Memory is bounded by ``PAIRS_AT_A_TIME``, beside the pairs found.

    Args:
        hashes: (n,) uint64, no two equal.
        bits: 0 to 64.

    Returns:
        (p, 2) int64, first < second, sorted, each pair once; (0, 2) where there are none.

    Source: Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing" (2014),
    section 3; the bands are searched by sorting instead of in tables.

    Example:
        >>> hash_pairs(np.array([0b1111, 0b0111, 0b110000], dtype=np.uint64), 1).tolist()
        [[0, 1]]
    """
    hashes = np.ascontiguousarray(hashes, dtype=np.uint64)
    parts = _all_pairs(hashes, bits) if len(hashes) <= FEW else _banded_pairs(hashes, bits)
    found = [np.zeros((0, 2), dtype=np.int64), *parts]
    return np.unique(np.concatenate(found), axis=0)


def _all_pairs(hashes: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    step = max(1, PAIRS_AT_A_TIME // max(1, len(hashes)))
    for start in range(0, len(hashes), step):
        near = hamming(hashes[start : start + step, None], hashes[None]) <= bits
        first, second = np.nonzero(near)
        first += start
        yield np.stack([first, second], axis=1)[first < second]


def _banded_pairs(hashes: np.ndarray, bits: int) -> Iterator[np.ndarray]:
    flips = [0]
    for flipped in range(1, bits // BANDS + 1):
        flips += [sum(1 << bit for bit in chosen) for chosen in combinations(range(BAND_BITS), flipped)]
    for band in range(BANDS):
        keys = (hashes >> np.uint64(band * BAND_BITS)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=1 << BAND_BITS)
        ends = np.cumsum(counts)
        buckets = np.flatnonzero(counts)
        for flip in flips:
            other = buckets ^ flip
            one_way = (buckets <= other) & (counts[other] > 0)  # the other way finds the same pairs
            yield from _compare(hashes, order, counts, ends - counts, (buckets[one_way], other[one_way]), bits)


def _compare(
    hashes: np.ndarray, order: np.ndarray, counts: np.ndarray, starts: np.ndarray,
    joined: tuple[np.ndarray, np.ndarray], bits: int,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Near pairs among all (member of a bucket, member of its partner), a bounded number at a time."""
    left, right = joined
    members = np.repeat(np.arange(len(left)), counts[left])  # which pair of buckets a left member is of
    within = np.arange(len(members)) - np.repeat(np.cumsum(counts[left]) - counts[left], counts[left])
    lefts = order[starts[left][members] + within]
    widths = counts[right][members]
    ends = np.cumsum(widths)
    done = 0
    while done < len(lefts):
        base = ends[done - 1] if done else 0
        stop = max(done + 1, int(np.searchsorted(ends, base + PAIRS_AT_A_TIME, side="right")))
        width = widths[done:stop]
        first = np.repeat(lefts[done:stop], width)
        offset = np.arange(len(first)) - np.repeat(np.cumsum(width) - width, width)
        second = order[np.repeat(starts[right][members[done:stop]], width) + offset]
        near = (hamming(hashes[first], hashes[second]) <= bits) & (first != second)
        pairs = np.stack([first[near], second[near]], axis=1)
        yield np.unique(np.sort(pairs, axis=1), axis=0)
        done = stop
