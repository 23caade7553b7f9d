"""`mmcl eval suite` as a person runs it: tables, resuming, several processes, and what goes wrong."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import mmcl

SCENES = "shapes?test=24:test"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))


def write_vectors(name: str, *, seed: int, rows: int = 20, **arrays: np.ndarray) -> str:
    generator = np.random.default_rng(seed)
    image = generator.normal(size=(rows, 8)).astype(np.float32)
    text = image + 2 * generator.normal(size=(rows, 8)).astype(np.float32)
    np.savez(name, image=image, text=text, **arrays)
    return f"vectors:{name}"


def write_suite(models: dict[str, str], data: dict[str, str], tasks: list) -> str:
    Path("suite.yaml").write_text(yaml.safe_dump({"models": models, "data": data, "tasks": tasks, "device": "cpu"}))
    return "suite.yaml"


def rows_of(folder: str) -> list[dict[str, str]]:
    with open(f"{folder}/results.csv", newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def test_models_and_data_in_a_row(tiny_run: Path, invoke) -> None:
    vectors = write_vectors("v.npz", seed=0)
    given = ["eval", "suite", str(tiny_run), SCENES, "--model", f"vec={vectors}", "--data", f"vec={vectors}"]
    given += ["--tasks", "retrieval,zeroshot", "-o", "out"]
    done = invoke(*given, "--json", "all.json")
    assert done.code == 1, done.err  # vectors know nothing of scenes
    assert "error: 2 of 8 cells have no result; see out/results.md" in done.err
    cells = {(one["model"], one["data"], one["task"]): one for one in json.loads(Path("all.json").read_text())["cells"]}
    mine = str(tiny_run)
    assert {key: one["status"] for key, one in cells.items()} == {
        (mine, SCENES, "retrieval"): "done",
        (mine, SCENES, "zeroshot"): "done",
        (mine, "vec", "retrieval"): "left out",
        (mine, "vec", "zeroshot"): "left out",
        ("vec", SCENES, "retrieval"): "failed",
        ("vec", SCENES, "zeroshot"): "failed",
        ("vec", "vec", "retrieval"): "done",
        ("vec", "vec", "zeroshot"): "left out",
    }
    assert cells["vec", "vec", "zeroshot"]["message"] == "no label column"
    assert "left out: vec on vec: zeroshot (no label column)" in done.out
    metrics = cells[mine, SCENES, "retrieval"]["metrics"]
    alone = invoke("eval", "retrieval", mine, SCENES, "--json", "alone.json")
    assert alone.code == 0, alone.err
    single = json.loads(Path("alone.json").read_text())
    assert {name: single[name] for name in metrics} == metrics
    low, high = metrics["retrieval/i2t_recall@5_ci95"]
    value = metrics["retrieval/i2t_recall@5"]
    assert f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]" in Path("out/results.md").read_text()
    assert "cell 1 of 5" in done.err

    again = invoke(*given)
    assert "3 of 5 cells are already there" in again.err
    assert "cell 1 of 2: vec on" in again.err  # what failed is tried again


def test_a_suites_file_and_what_the_command_adds(invoke) -> None:
    one, two = write_vectors("1.npz", seed=1), write_vectors("2.npz", seed=2)
    suite = write_suite({"one": one}, {"d": one}, ["retrieval", {"retrieval": {"ks": [1, 2]}}])
    done = invoke("eval", "suite", suite, "-o", "out")
    assert done.code == 0, done.err
    assert {row["task"] for row in rows_of("out")} == {"retrieval", "retrieval (ks=[1, 2])"}
    done = invoke("eval", "suite", "--config", suite, "-o", "out", "--model", f"two={two}", "--batch-size", "64")
    assert done.code == 0, done.err
    assert "2 of 4 cells are already there" in done.err
    kept = yaml.safe_load(Path("out/results.yaml").read_text())
    assert kept["models"] == {"one": one, "two": two}
    done = invoke("eval", "suite", "out/results.yaml")
    assert (done.code, "4 of 4 cells are already there" in done.err) == (0, True)
    done = invoke("eval", "suite", "out/results.yaml", "--task", "retrieval={ks: [1, 3]}", "--force")
    assert (done.code, "already there" in done.err) == (0, False)
    assert any(row["metric"] == "retrieval/i2t_recall@3" for row in rows_of("out"))


def test_a_shipped_suite_by_its_name(invoke) -> None:
    vectors = write_vectors("v.npz", seed=0)
    done = invoke("eval", "suite", vectors, "--config", "standard")
    assert done.code == 0, done.err
    assert Path("results/results.html").is_file()
    assert {row["task"] for row in rows_of("results")} == {"retrieval", "geometry"}
    assert "left out: vectors:v.npz on vectors:v.npz: probe (no label column)" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["owner/a", "vectors:v.npz", "--data", "x=owner/b", "--model", "y=owner/c"],
            "may be a model or data; say which",
        ),
        (["vectors:v.npz", "--tasks", "retreival"], "unknown task 'retreival'; did you mean 'retrieval'"),
        (["vectors:v.npz", "--task", "retrieval={k: [1]}"], "no option 'k'; did you mean 'ks'"),
        (["vectors:v.npz", "--config", "standart"], "did you mean 'standard'"),
        (["a.yaml", "b.yaml"], "several suites are named: a.yaml, b.yaml"),
        (["vectors:v.npz", "--precision", "fp64"], "precision is 'fp64'"),
        (["vectors:v.npz", "--share", "3/2"], "share 3/2"),
        (["--model", "a=vectors:v.npz", "--model", "a=vectors:v.npz"], "models holds 'a' twice"),
        (["--model", "a=vectors:v.npz"], "no data are named"),
        (["vectors:none.npz"], "there is no file none.npz"),
    ],
)
def test_bad_usage_says_what_is_meant(arguments: list[str], message: str, invoke) -> None:
    write_vectors("v.npz", seed=0)
    done = invoke("eval", "suite", *arguments)
    assert done.code == 2, done.err
    assert message in done.err
    assert not list(Path().glob("results/cells/*"))


def test_shares_make_the_whole(invoke) -> None:
    one, two = write_vectors("1.npz", seed=1), write_vectors("2.npz", seed=2)
    suite = write_suite({"one": one, "two": two}, {"one": one, "two": two}, ["retrieval"])
    whole = invoke("eval", "suite", suite, "-o", "whole")
    assert whole.code == 0, whole.err
    for part in ("1/3", "2/3", "3/3"):
        done = invoke("eval", "suite", suite, "-o", "parts", "--share", part)
        assert done.code == 0, done.err
        assert f"{part}: cell 1 of" in done.err
        assert not Path("parts/results.md").exists()
    done = invoke("eval", "suite", suite, "-o", "parts")
    assert "4 of 4 cells are already there" in done.err
    for name in ("results.md", "results.html"):
        assert Path("parts", name).read_bytes() == Path("whole", name).read_bytes()
    assert rows_of("parts") == rows_of("whole")
    labels = write_vectors("l.npz", seed=1, label=np.array(list("ab") * 10))
    done = invoke("eval", "suite", labels, "--tasks", "zeroshot", "-o", "failing", "--share", "1/1")
    assert (done.code, "failed: " in done.err) == (1, True)
    assert len({row["value"] for row in rows_of("whole") if row["metric"] == "retrieval/mean_recall@1"}) > 1


def launched(processes: int, *arguments: str) -> list[tuple[int, str]]:
    """The script in forked processes, as torchrun would start them: exit code and stderr of each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    context = multiprocessing.get_context("fork")  # nothing is imported again, so a child costs no seconds
    children = []
    for rank in range(processes):
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        child = context.Process(target=_run_script, args=(arguments, {**where, **numbers}, f"{rank}.log"))
        child.start()
        children.append(child)
    for child in children:
        child.join(120)
    return [(child.exitcode, Path(f"{rank}.log").read_text()) for rank, child in enumerate(children)]


def _run_script(arguments: tuple[str, ...], environment: dict[str, str], log: str) -> None:
    import torch

    torch.set_num_threads(1)  # the threads of the parent are not here
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    script = Path(__file__).resolve().parents[2] / "recipes" / "eval_suite.py"
    sys.argv = [str(script), *arguments]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))


def test_processes_of_a_launcher_say_what_one_says(tiny_run: Path, invoke) -> None:
    vectors = write_vectors("v.npz", seed=0)
    models, data = {"mine": str(tiny_run), "vec": vectors}, {"scenes": SCENES, "vec": vectors}
    suite = write_suite(models, data, ["retrieval", "zeroshot"])
    assert invoke("eval", "suite", suite, "-o", "one", "--no-cache").code == 1
    done = launched(2, suite, "-o", "two", "--no-cache")
    assert [code for code, _ in done] == [1, 0], done  # vectors fail on scenes, and the main process says so
    for rank, (_, told) in enumerate(done):
        assert f"{rank + 1}/2: cell 1 of" in told
    assert "tables: two/results.md" in done[0][1]
    assert rows_of("two") == rows_of("one")
    for name in ("results.md", "results.html"):
        assert Path("two", name).read_bytes() == Path("one", name).read_bytes()
    assert "| vec | scenes | retrieval | failed |" in Path("one/results.md").read_text()


def test_workers_of_one_machine_say_what_one_says(invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(mmcl.__file__).resolve().parents[1]))
    one, two = write_vectors("1.npz", seed=1), write_vectors("2.npz", seed=2)
    suite = write_suite({"one": one, "two": two}, {"one": one, "two": two}, ["retrieval"])
    assert invoke("eval", "suite", suite, "-o", "whole").code == 0
    done = invoke("eval", "suite", suite, "-o", "workers", "--workers", "2")
    assert done.code == 0, done.err
    assert rows_of("workers") == rows_of("whole")
    assert Path("workers/results.md").read_bytes() == Path("whole/results.md").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupted_it_keeps_what_is_done_and_says_how_to_go_on(invoke) -> None:
    vectors = write_vectors("v.npz", seed=0)
    write_vectors("slow.npz", seed=0, rows=4000)
    # The model knows the ids of both, so no cell fails and is tried again.
    slow = "vectors:slow.npz"
    suite = write_suite({"s": slow}, {"v": vectors, "s": slow}, ["retrieval", "geometry"])
    code = (
        "import os, signal, sys; import mmcl.cli.main as m; from mmcl.evaluation.suite import CellStore\n"
        "write = CellStore.write\n"
        "CellStore.write = lambda *a: (write(*a), os.kill(os.getpid(), signal.SIGINT))  # Ctrl-C after the first cell\n"
        "sys.exit(m.run_guarded(lambda: m.app(sys.argv[1:])))"
    )
    home = str(Path(mmcl.__file__).resolve().parents[1])
    child = subprocess.run(
        [sys.executable, "-c", code, "eval", "suite", suite, "-o", "out"],
        env={**os.environ, "PYTHONPATH": home},
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    error = child.stderr
    assert child.returncode == 130, error
    assert "finished cells are in out/cells; the same command goes on from there" in error
    kept = len(list(Path("out").glob("cells/*.json")))
    done = invoke("eval", "suite", suite, "-o", "out")
    assert f"{kept} of 4 cells are already there" in done.err
