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


def test_every_run_has_a_name_and_wants_what_there_is(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    import doctor_plants
    import doctor_pretrained_plants

    from mmcl.config import shipped_recipes
    from mmcl.doctor.finding import CAUSES

    for module in (doctor_plants, doctor_pretrained_plants):
        cases = [*module.PLANTED, *module.HEALTHY]
        assert len({case.name for case in cases}) == len(cases)
        assert {cause for case in module.PLANTED for cause in case.wanted} <= set(CAUSES)
        assert all(case.wanted for case in module.PLANTED)
        assert not any(case.wanted for case in module.HEALTHY)
        assert {case.recipe for case in cases} <= {"", *shipped_recipes()}
        # A tuple of one that lost its comma would be read letter by letter.
        assert all(isinstance(case.overrides, tuple) and isinstance(case.columns, tuple) for case in cases)
        assert all("=" in override for case in cases for override in case.overrides)
