"""`mmcl eval robustness` and `mmcl eval foils` on a model of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

SCENES = "shapes?test=30:test"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))


def test_robustness_prints_every_condition(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file, options = tmp_path / "robustness.json", ["--corruptions", "fog,contrast", "--severities", "1, 5"]
    options += ["--texts", "typos", "--attacks", "fgsm", "--epsilons", "8", "--max-images", "20"]
    done = invoke("eval", "robustness", str(tiny_run), SCENES, *options, "--json", str(file))
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    assert metrics["robustness/num_images"] == 20
    for measure in ("zeroshot_top1", "i2t_recall@1", "t2i_recall@1"):
        cells = [
            metrics[f"robustness/{measure}_{name}_{severity}"] for name in ("fog", "contrast") for severity in (1, 5)
        ]
        assert metrics[f"robustness/{measure}_corruption_mean"] == pytest.approx(np.mean(cells))
    assert "robustness/zeroshot_top1_fgsm_eps8" in metrics
    assert "robustness/t2i_recall@1_text_typos" in metrics
    for words in ("severity 5, mean of corruptions", "captions: typos", "FGSM, 8/255", "share lost to corruption"):
        assert words in done.out
    again = tmp_path / "again.json"
    assert invoke("eval", "robustness", str(tiny_run), SCENES, *options, "--json", str(again)).code == 0
    assert json.loads(again.read_text()) == metrics


def test_robustness_says_what_is_wrong(tiny_run: Path, invoke, tmp_path: Path) -> None:
    for option, value, message in (
        ("--corruptions", "fogg", "did you mean 'fog'"),
        ("--severities", "1,x", "want numbers with commas"),
        ("--severities", "7", "severity is 7"),
        ("--attacks", "cw", "unknown attack"),
    ):
        done = invoke("eval", "robustness", str(tiny_run), SCENES, option, value)
        assert done.code == 2
        assert message in done.err
    np.savez(tmp_path / "v.npz", image=np.eye(6, dtype=np.float32), text=np.eye(6, dtype=np.float32))
    done = invoke("eval", "robustness", f"vectors:{tmp_path}/v.npz", f"vectors:{tmp_path}/v.npz")
    assert done.code == 2
    assert "reads pixels and words" in done.err


def test_nothing_but_unchanged(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file, none = tmp_path / "clean.json", ["--corruptions", "none", "--texts", "none", "--attacks", "none"]
    assert invoke("eval", "robustness", str(tiny_run), SCENES, *none, "--json", str(file)).code == 0
    metrics = json.loads(file.read_text())
    assert "robustness/zeroshot_top1_clean" in metrics
    assert not [name for name in metrics if "fog" in name or "text_" in name or "eps" in name]


def test_foils_by_column_and_by_rule(tiny_run: Path, invoke, tmp_path: Path) -> None:
    file = tmp_path / "foils.json"
    done = invoke("eval", "foils", str(tiny_run), SCENES, "--negatives", "--json", str(file))
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    for name in ("binding", "relation", "count", "mean", "negatives", "negatives_pairwise"):
        assert 0 <= metrics[f"foils/{name}"] <= 1
    assert 0.1 < metrics["foils/negatives_chance"] < 0.3
    assert "against all hard negatives" in done.out
    done = invoke("eval", "foils", str(tiny_run), SCENES, "--generate", "--json", str(file))
    assert done.code == 0, done.err
    metrics = json.loads(file.read_text())
    assert {"foils/attribute", "foils/count", "foils/relation", "foils/swap"} <= set(metrics)
    assert "foils/negatives" not in metrics
    assert "against one word: swap" in done.out


def test_data_without_foils(tiny_run: Path, invoke, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", image=np.eye(6, dtype=np.float32), text=np.eye(6, dtype=np.float32))
    done = invoke("eval", "foils", f"vectors:{tmp_path}/v.npz", f"vectors:{tmp_path}/v.npz")
    assert done.code == 1
    assert "neither foils nor negatives" in done.err
