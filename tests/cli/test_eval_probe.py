"""`mmcl eval probe`, `knn`, `clusters`, `geometry` and `domains`, on a model of a few steps and on vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

SCENES = "shapes?train=120&validation=40&test=60"


@pytest.fixture
def measure(tiny_run: Path, invoke, tmp_path: Path):
    """measure("knn", ...) -> the metrics and what was printed, of the tiny run on the test scenes."""

    def run(command: str, *options: str, model: str | None = None, data: str = f"{SCENES}:test") -> tuple[dict, str]:
        file = tmp_path / f"{command}.json"
        done = invoke("eval", command, model or str(tiny_run), data, "--json", str(file), *options)
        assert done.code == 0, done.err
        return json.loads(file.read_text()), done.out

    return run


def vector_files(folder: Path) -> dict[str, str]:
    """One file of all vectors as a model, and its rows as data to fit on and to judge."""
    g = np.random.default_rng(0)
    labels = np.arange(90) % 3
    points = (np.eye(3, 8)[labels] + 0.2 * g.standard_normal((90, 8))).astype(np.float32)
    ids = np.arange(90)
    for name, rows in (("all", slice(0, 90)), ("train", slice(0, 60)), ("test", slice(60, 90))):
        np.savez(folder / f"{name}.npz", image=points[rows], text=points[rows], image_id=ids[rows], text_id=ids[rows],
                 label=labels[rows])  # fmt: skip
    return {name: f"vectors:{folder}/{name}.npz" for name in ("all", "train", "test")}


def test_probe(measure, tiny_run: Path) -> None:
    metrics, out = measure("probe", "--shots", "1,4", "--seeds", "2")
    assert 0 < metrics["probe/top1"] <= metrics["probe/top5"] <= 1
    assert metrics["probe/num_train"] < 120  # scenes of two kinds have no label
    assert 0 < metrics["probe/num_validation"] < 40
    assert {name for name in metrics if name.endswith("shot")} >= {"probe/top1_1shot", "probe/top1_4shot"}
    assert "probe/top1_2shot" not in metrics
    assert f"{100 * metrics['probe/top1']:.1f} %" in out
    assert "linear probe, 4 a class (±" in out
    import mmcl

    options = {"probe": {"shots": [1, 4], "seeds": 2}}
    assert mmcl.evaluate(str(tiny_run), f"{SCENES}:test", tasks=["probe"], options=options) == metrics


def test_probe_without_shots_and_with_named_data(measure) -> None:
    metrics, out = measure(
        "probe", "--shots", "", "--train", "shapes?train=80:train", "--validation", f"{SCENES}:train"
    )
    assert metrics["probe/num_train"] < 80 < 120
    assert not any("shot" in name for name in metrics)
    assert " a class (±" not in out


def test_knn(measure) -> None:
    metrics, out = measure("knn", "--k", "3")
    assert {"knn/top1_k1", "knn/top1_k3", "knn/top1_k5"} <= set(metrics)
    assert metrics["knn/top1_k3"] == metrics["knn/top1"]
    assert "kNN top-1, k = 3" in out
    among_itself, _ = measure("knn", data=f"{SCENES}:train")
    assert among_itself["knn/num_train"] == among_itself["knn/num_images"]
    assert among_itself["knn/top1_k1"] < 1.0


def test_clusters(measure) -> None:
    metrics, out = measure("clusters", "--clusters", "5", "--seeds", "2", "--method", "kmeans")
    assert metrics["clusters/num_clusters"] == 5
    assert 0 <= metrics["clusters/nmi"] <= 1
    assert "k-means NMI (±" in out
    assert not any("hdbscan" in name for name in metrics)
    texts, _ = measure("clusters", "--modality", "text")
    assert texts["clusters/num_items"] > metrics["clusters/num_items"]
    assert "clusters/hdbscan_nmi" in texts


def test_geometry(measure) -> None:
    metrics, out = measure("geometry", "--max-rows", "50")
    assert 0 < metrics["geometry/alignment"] < 4
    assert metrics["geometry/uniformity"] < 0
    assert metrics["geometry/num_sampled_texts"] == 50
    assert "modality gap" in out


def test_domains(measure) -> None:
    metrics, out = measure("domains")
    names = ("plain", "checkered", "speckled")
    for source in names:
        for target in names:
            assert 0 <= metrics[f"domains/probe_{source}_to_{target}"] <= 1
    assert metrics["domains/gap_ci95"][0] <= metrics["domains/gap"] <= metrics["domains/gap_ci95"][1]
    assert "probe, plain → speckled" in out
    assert "i2t_plain_recall@1" in " ".join(metrics)


def test_vectors_are_model_and_data(measure, invoke, tmp_path: Path) -> None:
    files = vector_files(tmp_path)
    for command, name in (("probe", "probe/top1"), ("knn", "knn/top1")):
        metrics, _ = measure(command, "--train", files["train"], model=files["all"], data=files["test"])
        assert metrics[name] > 0.9
    metrics, _ = measure("geometry", model=files["all"], data=files["all"])
    assert metrics["geometry/alignment"] == pytest.approx(0.0, abs=1e-6)
    metrics, _ = measure("clusters", model=files["all"], data=files["all"])
    assert metrics["clusters/nmi"] > 0.8
    done = invoke("eval", "probe", files["all"], files["test"])
    assert done.code == 2
    assert "has no split 'train' to fit on; name what to fit on with --train DATA" in done.err


def test_wrong_use_is_said(tiny_run: Path, invoke, tmp_path: Path) -> None:
    def fails(code: int, message: str, *arguments: str) -> None:
        done = invoke("eval", *arguments)
        assert done.code == code, done.err
        assert message in done.err

    run, data = str(tiny_run), f"{SCENES}:test"
    fails(2, "--shots '1,x': want whole numbers", "probe", run, data, "--shots", "1,x")
    fails(2, "shots and seeds need to be at least 1", "probe", run, data, "--shots", "0")
    fails(2, "which is judged on too", "probe", run, data, "--train", data)
    fails(1, "there is no", "probe", run, str(tmp_path / "none"))
    fails(2, "kmeans, hdbscan, got dbscan", "clusters", run, data, "--method", "dbscan")
    fails(2, "'image' or 'text'", "clusters", run, data, "--modality", "sound")
    fails(2, "temperature", "knn", run, data, "--temperature", "0")
    fails(2, "source is 'oil'", "domains", run, data, "--source", "oil")
    bare = tmp_path / "bare.npz"
    np.savez(bare, image=np.eye(3, dtype=np.float32), text=np.eye(3, dtype=np.float32))
    fails(1, "has no column 'label'", "clusters", f"vectors:{bare}", f"vectors:{bare}")
    fails(1, "has no column 'domain'", "domains", f"vectors:{bare}", f"vectors:{bare}", "--train", f"vectors:{bare}")
