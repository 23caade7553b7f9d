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


@pytest.fixture(scope="session", autouse=True)
def _imported_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A first training imports what is imported late; forked children then find it done."""
    from small_runs import small_run

    small_run(tmp_path_factory.mktemp("first") / "run", "train.max_steps=1")
