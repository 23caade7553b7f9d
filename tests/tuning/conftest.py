"""One thread, and a cache of features of each test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("optuna")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of features."""
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
