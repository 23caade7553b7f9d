"""What tests of the commands share: where the checkout is, and how a command is run as a person would run it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

# Workers share the cores: threads that wait for one another in a spin cost them several times what they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import mmcl

ROOT = Path(__file__).resolve().parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


class Outcome(NamedTuple):
    """What a command did, as a shell sees it."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The checkout these tests lie in; the package they test may be installed elsewhere."""
    return ROOT


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """run_python("-m", "mmcl", ..., cwd=folder): a fresh process with the same mmcl, offline, without a terminal."""
    home = str(Path(mmcl.__file__).resolve().parents[1])
    cache = str(tmp_path_factory.mktemp("cache"))

    def run(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH")))),
            "MMCL_CACHE": cache,
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "160",
            "NO_COLOR": "1",
        }
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def run_mmcl(run_python: Run) -> Run:
    """run_mmcl("train", "quickstart", ..., cwd=folder): the command line in a fresh process."""

    def run(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "mmcl", *arguments, cwd=cwd, timeout=timeout)

    return run


@pytest.fixture
def invoke(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Outcome]]:
    """invoke("recipes", "copy", "quickstart") -> Outcome: the command line in this process, which is quicker."""
    from mmcl.cli.main import app, run_guarded

    logger = logging.getLogger("mmcl")
    before = (list(logger.handlers), logger.level, logger.propagate)
    for name, value in {"HF_HUB_OFFLINE": "1", "COLUMNS": "160", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MMCL_CACHE", str(tmp_path_factory.mktemp("cache")))

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = run_guarded(lambda: app(list(arguments)))
        return Outcome(code, *capsys.readouterr())

    yield call
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, run_mmcl: Run) -> Path:
    """The folder of a quickstart run of a few steps, made once; do not write in it."""
    folder = tmp_path_factory.mktemp("tiny")
    done = run_mmcl("train", "quickstart", "--smoke", "--json", "result.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quickstart-smoke"
