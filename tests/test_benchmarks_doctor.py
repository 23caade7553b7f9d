"""The benchmark of the doctor: some planted faults, and healthy runs beside them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.slow
def test_a_quick_run(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    output = tmp_path / "doctor.json"
    done = run_python(str(checkout / "benchmarks" / "doctor.py"), "--quick", "-o", str(output), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = {run["case"]: run for run in json.loads(output.read_text(encoding="utf-8"))["runs"]}
    named = {name: run["named"] for name, run in runs.items()}
    assert named == {
        "pairs shuffled": "pairs_shuffled",
        "everything frozen": "nothing_trains",
        "one caption for all": "captions_do_not_vary",
        "InfoNCE": None,
        "sigmoid": None,
    }
    assert all(run["right"] for run in runs.values())
    table = output.with_suffix(".md").read_text(encoding="utf-8")
    assert "## Planted faults: 3 of 3 right" in table
    assert "## Healthy runs: 2 of 2 right" in table
