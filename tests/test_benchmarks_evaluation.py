"""The benchmark of evaluation: that it runs, and that what is compared computes the same numbers."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

MODULES = ("measuring", "evaluation_peers", "evaluation_agreement", "evaluation_retrieval", "evaluation_zero_shot")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def benchmarks(checkout: Path) -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/, which are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks"))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


def measured(run_python: Run, checkout: Path, folder: Path, *arguments: str) -> tuple[list[dict], str]:
    """Rows and table of a quick run of evaluation.py."""
    output = folder / "result.json"
    script = str(checkout / "benchmarks" / "evaluation.py")
    done = run_python(script, "--quick", "--repeats", "1", *arguments, "-o", str(output), cwd=folder)
    assert done.returncode == 0, done.stderr
    table = output.with_suffix(".md").read_text(encoding="utf-8")
    assert table in done.stdout
    assert table.startswith("# Evaluation side by side: ")
    assert "the figures mean nothing" in table
    return json.loads(output.read_text(encoding="utf-8"))["rows"], table


def check_rows(rows: list[dict], groups: set[str]) -> None:
    """Every group has figures of mmcl's, and whatever is about equality rather than time holds."""
    assert {row["group"] for row in rows} == groups
    for row in rows:
        assert row["ours"] is not None or "not installed" in row["peer"]
        if row["ratio"] is not None:
            assert 0 < row["ratio"] < math.inf
            assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
        else:
            assert row["holds"] is not False, row


def test_a_quick_run_without_other_packages(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    only = ("--only", "agreement,retrieval,evaluator", "--peers", "torch,sklearn")
    rows, _ = measured(run_python, checkout, tmp_path, *only)
    check_rows(rows, {"agreement", "retrieval", "evaluator"})
    whats = [row["what"] for row in rows]
    assert "R@1/5/10 both ways, 60 x 300: time" in whats
    assert "RetrievalEvaluator on given embeddings, 60 x 300: time with 95 % intervals" in whats
    assert {row["peer"] for row in rows if "difference, of" in row["what"]} == {"scikit-learn"}


@pytest.mark.slow
def test_a_quick_run_of_the_rest(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    rows, table = measured(run_python, checkout, tmp_path, "--only", "memory,fits", "--peers", "torch,sklearn")
    check_rows(rows, {"memory", "fits"})
    assert "| <= 953.7 MiB | yes |" in table


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--only", "speed"), "--only has 'speed'"),
        (("--repeats", "0"), "--repeats is 0"),
        (("--sizes", "5,64"), "--sizes is 5,64"),
    ],
)
def test_what_it_refuses(run_python: Run, checkout: Path, tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    done = run_python(str(checkout / "benchmarks" / "evaluation.py"), *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    "name", ["TOP_K", "CLIP_BENCHMARK", pytest.param("SENTENCE_TRANSFORMERS", marks=pytest.mark.slow)]
)
def test_peers_compute_the_same_recalls(benchmarks: SimpleNamespace, name: str) -> None:
    peers = benchmarks.evaluation_peers
    peer = getattr(peers, name)
    if peer.missing():
        pytest.skip(f"{peer.package} is {peer.missing()}")
    gallery = peers.planted(300, 64, signal=2.0)
    want = peers.mmcl_recalls(gallery)
    assert len(want) == 6
    assert all(0.05 < want[f"{way} R@{k}"] < 0.99 for way in ("i2t", "t2i") for k in (1, 5))  # equality says something
    found = peer.call(gallery)
    assert {key: found[key] for key in want} == pytest.approx(want, abs=1e-12)
    other = peers.Gallery(gallery.images, gallery.texts, gallery.owners.roll(5))
    assert peer.call(other)["t2i R@5"] == pytest.approx(peers.mmcl_recalls(other)["t2i R@5"], abs=1e-12)
    assert peers.mmcl_recalls(other) != pytest.approx(want, abs=1e-2)  # a control


def test_the_evaluator_is_given_the_same_gallery(benchmarks: SimpleNamespace) -> None:
    from mmcl.evaluation import RetrievalEvaluator

    peers = benchmarks.evaluation_peers
    gallery = peers.planted(80, 32)
    metrics = RetrievalEvaluator(peers.dataset_of(gallery), confidence=False)(peers.GivenEmbedder(gallery))
    assert (metrics["retrieval/num_images"], metrics["retrieval/num_texts"]) == (80, 400)
    for name, value in peers.mmcl_recalls(gallery).items():
        assert metrics[benchmarks.evaluation_retrieval._named(name)] == pytest.approx(value), name


@pytest.mark.slow
def test_classifiers_are_of_the_same_weights(benchmarks: SimpleNamespace) -> None:
    peers, zero_shot = benchmarks.evaluation_peers, benchmarks.evaluation_zero_shot
    names = ["tench", "sunglasses", "sunglasses", "ice cream"]
    with zero_shot.tower(zero_shot.QUICK[0].text) as tower:
        want = peers.mmcl_classifier(tower, names)
        for peer in zero_shot.ALL_PEERS:
            if not peer.missing():
                torch.testing.assert_close(peer.call(tower, names), want, rtol=0, atol=1e-6, msg=peer.name)
    assert want.shape == (4, 64)
    torch.testing.assert_close(want[1], want[2])
    assert (want[0] - want[3]).norm() > 0.01  # a control: a name matters
    rows = list(zero_shot.zero_shot(benchmarks.measuring.Settings(quick=True, repeats=1)))
    assert {row.what.rpartition(": ")[2] for row in rows} == {"time", "difference of the weights"}
    assert all(row.holds for row in rows if row.holds is not None)


def test_a_check_sees_a_wrong_metric(benchmarks: SimpleNamespace) -> None:
    agreement = benchmarks.evaluation_agreement
    case = next(agreement.retrieval_cases(quick=True))
    checks = {(check.metric, check.peer): check for check in agreement.retrieval_checks()}
    gain, precision = checks["ndcg@10", "scikit-learn"], checks["map, whole gallery", "scikit-learn"]
    assert gain.ours(case) == pytest.approx(gain.theirs(case), abs=1e-9)
    assert precision.ours(case) == pytest.approx(precision.theirs(case), abs=1e-9)
    assert gain.ours(case) != pytest.approx(precision.theirs(case), abs=1e-3)


def test_a_row_with_a_bound_of_its_own(benchmarks: SimpleNamespace) -> None:
    measuring = benchmarks.measuring
    rows = [
        measuring.bounded("a", "w", 2e-7, "p", unit="error", at_most=1e-6),
        measuring.bounded("a", "w", 2e9, "", unit="bytes", at_most=1e9),
        measuring.compared("a", "w", 1.0, "p", 7.0, unit="s", at_most=1 / 8),
    ]
    assert measuring.table(rows).splitlines()[2:] == [
        "| w | 2.0e-07 | p | – | <= 1.0e-06 | yes |",
        "| w | 1907.3 MiB |  | – | <= 953.7 MiB | **no** |",
        "| w | 1.00 s | 7.00 s p | 0.14 | <= 1/8 | **no** |",
    ]
