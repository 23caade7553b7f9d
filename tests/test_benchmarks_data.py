"""The benchmark of data: that it runs, and that what is compared reads the same images."""

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

MODULES = ("command", "data", "data_images", "data_storage", "data_tokens", "evaluation", "loss", "measuring")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def benchmarks(checkout: Path) -> Iterator[SimpleNamespace]:
    """The modules of benchmarks/, which are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks"))
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})


@pytest.mark.parametrize(
    "groups", [{"loader", "storage"}, pytest.param({"decode", "tokens"}, marks=pytest.mark.slow)], ids=["bytes", "rest"]
)
def test_a_quick_run(run_python: Run, checkout: Path, tmp_path: Path, groups: set[str]) -> None:
    output = tmp_path / "result.json"
    script = str(checkout / "benchmarks" / "data.py")
    options = ("--quick", "--repeats", "1", "--only", ",".join(sorted(groups)), "--peers", "torch")
    done = run_python(script, *options, "-o", str(output), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = output.with_suffix(".md").read_text(encoding="utf-8")
    assert table in done.stdout
    assert table.startswith("# Data side by side: ")
    assert "the figures mean nothing" in table
    rows = json.loads(output.read_text(encoding="utf-8"))["rows"]
    assert {row["group"] for row in rows} == groups
    for row in rows:
        if row["ratio"] is not None:
            assert 0 < row["ratio"] < math.inf
        elif "not installed" not in row["peer"]:
            assert row["holds"] is not False, row
    assert {row["peer"] for row in rows if row["group"] == "storage"} <= {"plain files"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--only", "speed"), "--only has 'speed'"),
        (("--repeats", "0"), "--repeats is 0"),
        (("--sizes", "5"), "--sizes is 5; want sizes of 10 or more"),
        (("--keep-memory",), "unrecognized arguments"),
    ],
)
def test_what_it_refuses(
    benchmarks: SimpleNamespace, capsys: pytest.CaptureFixture, wrong: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        benchmarks.command.arguments(benchmarks.data.BENCHMARK, list(wrong))
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_every_group_of_every_script_is_there(benchmarks: SimpleNamespace) -> None:
    for script in (benchmarks.data, benchmarks.evaluation, benchmarks.loss):
        for name, module in script.BENCHMARK.groups.items():
            assert callable(getattr(importlib.import_module(module), name))
    assert benchmarks.loss.BENCHMARK.sizes == benchmarks.measuring.Settings.sizes


def test_all_see_the_same_crops(benchmarks: SimpleNamespace, tmp_path: Path) -> None:
    images = benchmarks.data_images
    files = images.write_photographs(tmp_path, 3)
    sizes = [Path(file).stat().st_size for file in files]
    assert all(30_000 < size < 120_000 for size in sizes), "as large as photographs"
    state = torch.get_rng_state()
    try:
        open_clip, torchvision = images.open_clip_pixels(files)(), images.torchvision_pixels(files)()
    finally:
        torch.set_rng_state(state)
    ours, scaled = images.mmcl_pixels(files, "exact")(), images.mmcl_pixels(files, "scaled")()
    assert ours.shape == (3, 3, 224, 224)
    torch.testing.assert_close(ours, torchvision, rtol=0, atol=1e-5)
    apart = images.differences(ours, open_clip)
    assert apart.max() < 1.01
    assert apart.mean() < 0.01
    assert 0.1 < images.differences(scaled, open_clip).mean() < 4
    assert images.differences(ours.flip(0), open_clip).mean() > 20, "control: other images"


def test_all_stores_hold_the_same_bytes(
    benchmarks: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path / "cache"))
    store = benchmarks.data_storage
    monkeypatch.setattr(store, "PER_SHARD", 4)
    files = store.write_files(tmp_path, 10)
    shards = store.write_shards(tmp_path, files)
    assert len(shards) == 3
    total = sum(Path(file).stat().st_size for file in files)
    ways = [store.of_files(files), store.of_mmcl(str(tmp_path / "shards-*.tar"), 10)]
    ways += [store.of_datasets(tmp_path, files), store.of_webdataset(shards)]
    assert [way() for way in ways] == [total] * 4
