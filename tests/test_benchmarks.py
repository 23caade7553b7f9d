"""The benchmarks: that they run, that what is compared is the same loss, that a table says what was measured."""

from __future__ import annotations

import json
import math
import mmap
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

MODULES = ("measuring", "peers", "peak_memory", "loss_accuracy", "loss_cuda", "gradient_caching")
Run = Callable[..., subprocess.CompletedProcess[str]]
HEAD = "| what | mmcl | peer | ratio | must be | holds |"


@pytest.fixture(scope="module")
def benchmarks(checkout: Path) -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/, which are no package."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks"))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


def measured(run_python: Run, checkout: Path, folder: Path, *arguments: str) -> tuple[list[dict], str]:
    """Rows and table of a quick run of loss.py."""
    output = folder / "result.json"
    done = run_python(str(checkout / "benchmarks" / "loss.py"), "--quick", *arguments, "-o", str(output), cwd=folder)
    assert done.returncode == 0, done.stderr
    table = output.with_suffix(".md").read_text(encoding="utf-8")
    assert table in done.stdout
    result = json.loads(output.read_text(encoding="utf-8"))
    assert {"processor", "cores", "threads", "memory_gib", "gpu", "commit"} <= set(result["machine"])
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    return result["rows"], table


def check_rows(rows: list[dict], table: str, groups: set[str]) -> None:
    """Every group is there with mmcl's figures, and every row stands in the table with all its cells."""
    assert {row["group"] for row in rows} == groups
    assert table.count(HEAD) == len(groups)
    lines = [line for line in table.splitlines() if line.startswith("| ") and line != HEAD]
    assert [line.split(" | ")[0][2:] for line in lines] == [row["what"] for row in rows]
    assert all(line.count("|") == HEAD.count("|") for line in lines)
    for row in rows:
        assert row["ours"] is not None or "not measured" in row["peer"]
        if row["ours"] is not None:
            assert row["ours"] >= 0
        if row["ratio"] is not None:
            assert 0 < row["ratio"] < math.inf
            assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])


def test_a_quick_run_without_other_packages(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    groups = {"info_nce", "sigmoid", "nt_xent", "bf16", "accuracy", "cuda"}
    arguments = ("--only", "info_nce,sigmoid,nt_xent,bf16,accuracy,cuda", "--peers", "torch", "--repeats", "1")
    rows, table = measured(run_python, checkout, tmp_path, *arguments)
    check_rows(rows, table, groups)
    assert {row["group"] for row in rows if row["ratio"] is not None} >= {"info_nce", "sigmoid", "nt_xent", "bf16"}
    assert "the figures mean nothing" in table
    if not torch.cuda.is_available():
        assert "not measured: no GPU" in table


@pytest.mark.slow
def test_a_quick_run_of_the_rest(run_python: Run, checkout: Path, tmp_path: Path) -> None:
    arguments = ("--only", "memory,gradient_caching", "--repeats", "1", "--peers", "torch")
    rows, table = measured(run_python, checkout, tmp_path, *arguments)
    check_rows(rows, table, {"memory", "gradient_caching"})
    assert [row["what"] for row in rows if row["ratio"] is not None] == ["info_nce, fp32, B = 64: peak memory"]
    assert sum(row["ours"] is not None for row in rows if row["group"] == "gradient_caching") == 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--only", "speed"), "--only has 'speed'"),
        (("--repeats", "0"), "--repeats is 0"),
        (("--sizes", "1,64"), "--sizes is 1,64"),
    ],
)
def test_what_it_refuses(run_python: Run, checkout: Path, tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    done = run_python(str(checkout / "benchmarks" / "loss.py"), *wrong, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr


def outcome(peers: ModuleType, make: object, rows: int) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    return peers.step(make, peers.leaves(rows, 8))()


@pytest.mark.parametrize(
    ("family", "ours"), [("INFO_NCE", "mmcl_info_nce"), ("SIGMOID", "mmcl_sigmoid"), ("NT_XENT", "mmcl_nt_xent")]
)
def test_peers_compute_the_same_loss(benchmarks: SimpleNamespace, family: str, ours: str) -> None:
    peers = benchmarks.peers
    value, gradients = outcome(peers, getattr(peers, ours)(), 6)
    compared = []
    for peer in getattr(peers, family):
        loss, why = peer.load()
        if loss is None:
            assert why == "not installed", peer.name
            continue
        theirs, their_gradients = outcome(peers, loss, 6)
        assert theirs.item() == pytest.approx(value.item(), rel=1e-5), peer.name
        for mine, other in zip(gradients[2:], their_gradients[2:]):  # of scale and bias, where they matter
            if mine is not None and other is not None:
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
        for mine, other, leaf in zip(gradients[:2], their_gradients[:2], peers.leaves(6, 8)[:2]):
            # A peer that normalises rows itself has no gradient along them.
            across = [each - (each * leaf).sum(1, keepdim=True) * leaf for each in (mine, other)]
            torch.testing.assert_close(
                *across, rtol=1e-4, atol=1e-6, msg=lambda text, peer=peer: f"{peer.name}: {text}"
            )
        compared.append(peer.name)
    assert len(compared) >= 1
    loss = getattr(peers, ours)()
    wrong, _ = outcome(peers, lambda x, y, scale, bias: loss(x, y.roll(1, 0), scale, bias), 6)
    assert wrong.item() != pytest.approx(value.item(), rel=1e-3)  # a control: pairs matter


@pytest.mark.slow
def test_cached_and_plain_steps_of_both_have_the_same_gradient(benchmarks: SimpleNamespace) -> None:
    pytest.importorskip("sentence_transformers")
    caching = benchmarks.gradient_caching
    # Random sentences are nearly alike to a random BERT: in float32 their gradients would be lost to rounding.
    tower = caching.Tower().double()
    found = {}
    for name, make in caching.STEPS.items():
        for micro in (None, 3):
            call = make(tower, 8, micro=micro)
            tower.eval()  # without dropout
            value = float(call())
            gradient = torch.cat([p.grad.flatten() for p in tower.parameters() if p.grad is not None])
            found[name, micro] = (value, gradient)
    value, gradient = found["mmcl", None]  # gradients are made anew by every call: these stay
    assert value > 0.1
    assert gradient.norm() > 0.01
    tower.train()
    with_dropout = float(caching.mmcl_step(tower, 8, micro=None)())
    assert with_dropout != pytest.approx(value, rel=1e-5)  # a control
    for name, (other, other_gradient) in found.items():
        assert other == pytest.approx(value, rel=1e-6), name  # one of them reads its scale as float32
        assert (other_gradient - gradient).norm() < 1e-6 * gradient.norm(), name


def test_converged_pairs_have_a_small_loss_and_fresh_ones_that_of_chance(benchmarks: SimpleNamespace) -> None:
    accuracy, loss = benchmarks.loss_accuracy, benchmarks.peers.plain_info_nce()
    values = {}
    for kind in ("fresh", "converged", "equal"):
        image, text = accuracy.pairs(kind, size=256, dim=128, scale=20.0, seed=0)
        torch.testing.assert_close(text.norm(dim=1), torch.ones(256, dtype=torch.float64))
        inputs = accuracy.inputs_of(image, text, 20.0, torch.float64)
        values[kind] = float(accuracy.results(loss, inputs)[0])
    assert values["fresh"] > math.log(256)
    assert 1e-4 < values["converged"] < 0.05
    assert values["equal"] < values["converged"]


def test_the_peak_of_memory_is_seen(benchmarks: SimpleNamespace) -> None:
    peak = benchmarks.peak_memory
    block = 64 * 2**20

    def touch() -> None:
        with mmap.mmap(-1, block) as memory:  # new memory: an allocator may have some left from other tests
            for page in range(0, block, mmap.PAGESIZE):
                memory[page] = 1
            time.sleep(0.05)  # so that who looks every millisecond sees all of it

    for read in (peak.growth, lambda work: watched(peak, work)):
        # The kernel counts pages in lots.
        assert 0.98 * block <= read(touch) < 1.5 * block
        assert read(lambda: None) < block / 4


def watched(peak: ModuleType, work: object) -> int:
    with peak._watched() as read:
        work()
    return read()


def test_rows_of_a_gpu(benchmarks: SimpleNamespace) -> None:
    # On a CPU: the same calls, so that the rows cannot break where no GPU is at hand.
    settings = benchmarks.measuring.Settings(dim=8, repeats=1, peers=("torch", "memeff", "inf_cl"))
    for dtype in (torch.float32, torch.bfloat16):
        rows = list(benchmarks.loss_cuda.on_device(settings, 32, dtype, torch.device("cpu")))
        assert [row.what for row in rows if row.ratio is not None] == [
            f"info_nce on a GPU, {'fp32' if dtype == torch.float32 else 'bf16'}, B = 32: {figure}"
            for figure in ("time", "peak memory")
        ]
        assert all(row.ours is not None for row in rows)
        assert {row.peer.partition(":")[0] for row in rows if row.ratio is None} == {"memeff", "inf-cl, both ways"}


def test_a_table_says_what_holds(benchmarks: SimpleNamespace) -> None:
    measuring = benchmarks.measuring
    rows = [
        measuring.compared("a", "w", 1.0, "p", 2.0, unit="s", at_most=0.8),
        measuring.compared("a", "w", 2**20, "p", 2**24, unit="bytes", at_most=1 / 15),
        measuring.compared("a", "w", 3.0, "p", 2.0, unit="x", at_most=1.0),
        measuring.compared("a", "w", 0.003, "p", 0.002, unit="s"),
        measuring.unmeasured("a", "w", "p", "not installed", ours=1e-3, unit="error"),
    ]
    lines = measuring.table(rows).splitlines()[2:]
    assert lines == [
        "| w | 1.00 s | 2.00 s p | 0.50 | <= 0.80 | yes |",
        "| w | 1.0 MiB | 16.0 MiB p | 0.062 | <= 1/15 | yes |",
        "| w | 3.00x | 2.00x p | 1.50 | <= 1.00 | **no** |",
        "| w | 3 ms | 2 ms p | 1.50 | – | – |",
        "| w | 1.0e-03 | p: not installed | – | – | – |",
    ]
    assert re.fullmatch(r"2 of 3 hold; 1 not measured", measuring.summary(rows))
