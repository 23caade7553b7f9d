"""`mmcl doctor`: the diagnosis first, then the table; files, exit codes and wrong calls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmcl.build import train
from mmcl.config import recipe_from_tree

TOWER = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run in which nothing can train, and one that could."""
    folder = tmp_path_factory.mktemp("runs")
    frozen = {"freeze": True, "head": {"name": "none"}, "options": TOWER}
    free = {"options": TOWER}
    made = {}
    for name, side, steps in (("frozen", frozen, 12), ("short", free, 2)):
        tree = {
            "data": {"path": "shapes?train=120&validation=40&test=4&image_size=32"},
            "model": {"embedding_dim": 32, "image": {**side, "image_size": 32}, "text": side},
            "train": {"batch_size": 16, "max_steps": steps, "log_every": 2, "feature_cache": {"enabled": False}},
            "evaluate": {"tasks": ["retrieval"], "every_steps": 1000, "at_end": False},
            "run": {"dir": str(folder / name)},
        }
        made[name] = train(recipe_from_tree(tree, source="test")).folder
    return SimpleNamespace(**made)


def test_the_diagnosis_comes_first(invoke: Callable, runs: SimpleNamespace, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(runs.frozen.rglob("*")) if path.is_file()}
    files = ("--json", str(tmp_path / "found.json"), "--html", str(tmp_path / "found.html"))
    done = invoke("doctor", str(runs.frozen), "--rows", "100", *files, "--strict")
    assert done.code == 1, done.err  # a fault, and --strict
    assert done.out.startswith("No weight that matters is trained: Both towers are frozen")
    assert "model.image.freeze=false" in done.out
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["cause"] == "nothing_trains"
    assert found["state"] == "finished"
    assert [finding["severity"] for finding in found["findings"]].count("fault") == 1
    assert {"cause", "severity", "evidence", "value", "threshold", "next_step"} == set(found["findings"][0])
    assert "No weight that matters" in (tmp_path / "found.html").read_text(encoding="utf-8")
    assert {path: path.read_bytes() for path in before} == before


def test_without_strict_findings_are_no_failure(invoke: Callable, runs: SimpleNamespace) -> None:
    assert invoke("doctor", str(runs.frozen), "--rows", "100").code == 0


def test_a_run_that_was_broken_off_has_no_model(invoke: Callable, runs: SimpleNamespace, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(runs.short, broken, ignore=shutil.ignore_patterns("model", "checkpoints"))
    done = invoke("doctor", str(broken), "--rows", "100")
    assert done.code == 0, done.err
    assert "not looked at: the trained model" in done.out
    assert "nothing_trains" not in done.out
    assert "No weight that matters" not in done.out  # the control: these towers are free


def test_wrong_calls(invoke: Callable, runs: SimpleNamespace, tmp_path: Path) -> None:
    none = invoke("doctor", str(tmp_path))
    assert (none.code, "holds no run" in none.err) == (2, True)
    moved = invoke("doctor", str(runs.frozen), "--data", str(tmp_path / "nowhere"))
    assert moved.code in (1, 2)
    assert "nowhere" in moved.err
    assert invoke("doctor", str(runs.frozen), "--rows", "5").code == 2
    assert invoke("doctor", str(runs.frozen), "--html", str(tmp_path)).code == 2
