"""The benchmark of noise handling: which captions it shuffles, and how it reckons what was recovered."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def noise(checkout: Path) -> Iterator[ModuleType]:
    """benchmarks/noise.py, which is in no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks"))
        yield importlib.import_module("noise")


GROUPS = np.repeat(np.arange(50), 2)


@pytest.mark.parametrize("by", ["group", "row"])
def test_a_share_gets_captions_of_other_groups_and_the_rest_its_own(noise: ModuleType, by: str) -> None:
    taken = noise.sources(GROUPS, share=0.3, by=by, seed=1)
    moved = taken != np.arange(100)
    assert moved.sum() == 30
    assert (GROUPS[taken] != GROUPS)[moved].all()
    if by == "group":
        # Whole groups, and every one of them gives its caption to another.
        assert (moved.reshape(50, 2).sum(1) % 2 == 0).all()
        assert sorted(set(GROUPS[taken[moved]])) == sorted(set(GROUPS[moved]))
    else:
        assert sorted(taken) == list(range(100))
    assert not np.array_equal(taken, noise.sources(GROUPS, share=0.3, by=by, seed=2))
    assert np.array_equal(taken, noise.sources(GROUPS, share=0.3, by=by, seed=1))
    assert np.array_equal(noise.sources(GROUPS, share=0.0, by=by, seed=1), np.arange(100))


def test_what_was_recovered_is_a_share_of_what_was_lost(noise: ModuleType) -> None:
    def found(value: float) -> dict[int, dict]:
        return {0: {split: dict.fromkeys(noise.RECALLS, value) for split in ("validation", "test")}}

    results = {"clean": found(0.6), "shuffled": found(0.5), "mixture": found(0.575)}
    assert noise.recovered(results, "mixture", "test") == pytest.approx(0.75)
    assert noise.recovered(results, "shuffled", "test") is None
    assert noise.recovered({**results, "clean": found(0.4)}, "mixture", "test") is None


def test_detection_counts_what_is_listed(noise: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("row,id\n0,a\n3,b\n")
    found = noise.detection(tmp_path / "pairs.csv", np.array([True, True, False, False]))
    assert (found["precision"], found["recall"], found["wrong_share"]) == (0.5, 0.5, 0.5)
