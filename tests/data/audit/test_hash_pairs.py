"""Close hashes, against comparing all with all."""

from __future__ import annotations

import numpy as np
import pytest

from mmcl.data.audit import hash_pairs as module
from mmcl.data.audit.hash_pairs import hash_pairs


def close_hashes(number: int, seed: int) -> np.ndarray:
    """Random hashes, and for each a second one with 0 to 15 bits flipped."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, number, dtype=np.uint64)
    other = hashes.copy()
    for place in range(number):
        for bit in rng.choice(64, place % 16, replace=False):
            other[place] ^= np.uint64(1 << int(bit))
    return rng.permutation(np.unique(np.concatenate([hashes, other])))


def naive(hashes: np.ndarray, bits: int) -> list[list[int]]:
    numbers = [int(value) for value in hashes]
    pairs = [[i, j] for i in range(len(numbers)) for j in range(i + 1, len(numbers))]
    return [[i, j] for i, j in pairs if (numbers[i] ^ numbers[j]).bit_count() <= bits]


@pytest.mark.parametrize("bits", [0, 1, 3, 4, 7, 10, 11])
@pytest.mark.parametrize("few", [0, 10_000])
def test_all_pairs_and_no_others(bits: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", few)
    hashes = close_hashes(120, seed=bits)
    expected = naive(hashes, bits)
    assert hash_pairs(hashes, bits).tolist() == expected
    assert bits == 0 or expected


def test_small_steps_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.unique(np.random.default_rng(0).integers(0, 64, 60).astype(np.uint64))  # three bands are all alike
    expected = naive(hashes, 3)
    for few in (0, 10_000):
        monkeypatch.setattr(module, "FEW", few)
        monkeypatch.setattr(module, "PAIRS_AT_A_TIME", 7)
        assert hash_pairs(hashes, 3).tolist() == expected


def test_none_and_one() -> None:
    assert hash_pairs(np.zeros(0, dtype=np.uint64), 5).shape == (0, 2)
    assert hash_pairs(np.zeros(1, dtype=np.uint64), 5).shape == (0, 2)
