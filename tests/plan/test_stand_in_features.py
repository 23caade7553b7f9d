"""Features that are made up for a plan: of the right number and shape, whatever the size of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcl.data.chunk_files import Chunk
from mmcl.plan.stand_in_features import StandInFeatures
from mmcl.training import cached_features


def made(folder: Path, total: int) -> cached_features.CachedImages:
    def compute(start: int, stop: int) -> Chunk:
        return Chunk(np.random.default_rng(start).standard_normal((stop - start, 1, 4)).astype(np.float32), [])

    return StandInFeatures(folder, timed=False)._chunks("image-0", total, compute, "features", shared=False)


@pytest.mark.parametrize("total", [3, 1024, 2500])
@pytest.mark.parametrize("most", [2**31, 1])
def test_every_row_has_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, total: int, most: int) -> None:
    monkeypatch.setattr(cached_features, "IN_MEMORY_BYTES", most)  # 1: as for data that are read from disk
    found = made(tmp_path, total)
    last = found([0, total - 1], [0, 0])
    assert last.shape == (2, 4)
    assert last.isfinite().all()
    assert not np.array_equal(last[0], last[1])
    with pytest.raises(IndexError):
        found([total], [0])
    assert not list(tmp_path.iterdir())


def test_large_data_take_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_features, "IN_MEMORY_BYTES", 10**6)
    parts = made(tmp_path, 10**6)._parts
    assert sum(map(len, parts)) == 10**6
    assert len({part.ctypes.data for part in parts}) == 1
