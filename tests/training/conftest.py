"""One thread a process: children are forked, and two of them share a core with the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache of features."""
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
