"""The benchmark of exported graphs: that it runs, and that both sides compute the same embeddings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install '.[test]'")

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_a_quick_run(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    output, script = tmp_path / "result.json", str(checkout / "benchmarks" / "export.py")
    only = ("--only", "latency,whole,products,files")
    done = run_python(script, "--quick", "--repeats", "1", *only, "-o", str(output), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert output.with_suffix(".md").read_text(encoding="utf-8") in done.stdout
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert {row["group"] for row in rows} == {"latency", "whole", "products", "files"}
    by_name = {row["what"]: row for row in rows}
    for tower in ("test_vit", "small BERT"):
        for batch in (1, 2):
            fp32 = by_name[f"{tower}, batch {batch}: onnxruntime fp32"]
            assert fp32["details"]["largest_difference"] < 1e-5
            assert fp32["ratio"] == pytest.approx(fp32["ours"] / fp32["theirs"])
            assert fp32["must_be"] == ("<= 0.77" if batch == 1 else "")
            int8 = by_name[f"{tower}, batch {batch}: onnxruntime int8"]["details"]["largest_difference"]
            assert 1e-6 < int8 < 0.2  # a control: another model, and nearly the same
    assert done.stdout.startswith("# ONNX graphs beside torch: ")


def test_a_wrong_batch_size(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    done = run_python(str(checkout / "benchmarks" / "export.py"), "--sizes", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "--sizes is 0; want sizes of 1 or more" in done.stderr
