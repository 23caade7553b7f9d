"""`mmcl push`, as a person runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("repos", "hub")]

import six_models
from made_runs import make_run
from push_server import ModelHub, hub

__all__ = ["hub"]

CARD = "---\nlibrary_name: mmcl\nlicense: mit\n---\n# Mine\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli_push")
    return make_run(folder / "made", six_models.build_model("bert_vit", folder / "towers"))


@pytest.fixture
def carded(run: Path, tmp_path: Path) -> Path:
    """The same with a card of its own, which is quicker."""
    copy = Path(shutil.copytree(run, tmp_path / "carded", symlinks=True))
    (copy / "README.md").write_text(CARD)
    return copy


def test_a_dry_run_lists_and_asks_nothing(hub: ModelHub, run: Path, invoke: Callable, tmp_path: Path) -> None:
    file = tmp_path / "push.json"
    done = invoke("push", str(run), "owner/model", "--dry-run", "--no-gallery", "--license", "mit", "--title", "Mine",
                  "--json", str(file))  # fmt: skip
    assert done.code == 0, done.err
    assert hub.requests == []
    told = json.loads(file.read_text())
    assert told["pushed"] is None
    assert {"README.md", "model.safetensors", "recipe.yaml"} <= told["files"].keys()
    assert all(path in done.out for path in told["files"])
    assert "dry run, nothing was sent" in done.out
    assert "local paths were replaced by portable names in" in done.out


def test_a_push_says_address_commit_and_how_to_load_it(
    hub: ModelHub, carded: Path, invoke: Callable, tmp_path: Path
) -> None:
    file = tmp_path / "push.json"
    done = invoke("push", str(carded), "owner/model", "--private", "--message", "First", "--json", str(file))
    assert done.code == 0, done.err
    commit = hub.commits("owner/model")[-1]
    assert commit.message == "First"
    assert f"{hub.endpoint}/owner/model/commit/{commit.sha}" in done.out
    assert 'mmcl.load("owner/model")' in done.out
    assert json.loads(file.read_text())["pushed"]["commit"] == commit.sha
    assert hub.repos["owner/model"].private
    assert hub.token not in done.out + done.err + file.read_text()
    again = invoke("push", str(carded), "owner/model")
    assert "holds all of it already; no commit was made" in again.out
    asked = invoke("push", str(carded), "owner/model", "--create-pr", "--revision", "trial", "--format", "transformers")
    assert asked.code == 0, asked.err
    assert "/owner/model/discussions/1" in asked.out
    assert "export_report.json" in hub.files("owner/model", "refs/pr/1")


def test_refusals(hub: ModelHub, carded: Path, invoke: Callable) -> None:
    secret = "hf_" + "q" * 34
    (carded / "model" / "notes.md").write_text(f"use {secret}\n")
    (carded / "model" / "rows.csv").write_text("a\n")
    dry = invoke("push", str(carded), "owner/model", "--dry-run")
    assert dry.code == 1
    assert "refused  notes.md: a Hugging Face token in line 1" in dry.out
    wet = invoke("push", str(carded), "owner/model", "--allow", "*.csv")
    assert wet.code == 2
    assert "notes.md: a Hugging Face token in line 1" in wet.err
    assert "rows.csv" not in wet.err
    assert secret not in dry.out + dry.err + wet.out + wet.err
    assert [(method, path) for method, path, _ in hub.requests] == [("GET", "/api/whoami-v2")]  # nothing was sent


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{run}", "model"], "want owner/name"),
        (["{run}/none", "owner/model"], "there is no such folder"),
        (["{run}", "owner/model", "--format", "onxn"], "did you mean 'onnx'"),
        (["{run}", "owner/model", "--license", "mti"], "mti"),
        (["{run}", "owner/model", "--message", " "], "--message is empty"),
        (["{run}", "owner/model", "--json", "/none/x.json"], "there is no folder"),
    ],
)
def test_bad_usage(hub: ModelHub, carded: Path, invoke: Callable, arguments: list[str], sentence: str) -> None:
    done = invoke("push", *(argument.format(run=carded) for argument in arguments))
    assert (done.code, "Traceback" in done.err) == (2, False)
    assert sentence in done.err
    assert hub.requests == []


def test_errors_of_the_hub_are_one_sentence(hub: ModelHub, carded: Path, invoke: Callable) -> None:
    done = invoke("push", str(carded), "stranger/model")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "write access to 'stranger'" in done.err
    (carded / "checkpoints" / "last" / "progress.json").write_text('{"step": 3, "finished": false}')
    done = invoke("push", str(carded), "owner/model")
    assert "has not ended (step 3)" in done.err
    assert invoke("push", str(carded), "owner/model", "--allow-unfinished").code == 0


def test_ctrl_c_while_files_are_sent(hub: ModelHub, carded: Path, tmp_path: Path) -> None:
    hub.fail("PUT", "/lfs/", 503, times=1000)  # it waits and tries again
    home = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": home, "NO_COLOR": "1", "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(Path(home) / "recipes" / "push_to_hub.py"), str(carded), "owner/model"],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 120
    while not hub.asked("PUT", "/lfs/") and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "nothing is committed to owner/model" in err
    assert "Traceback" not in err
    assert list((tmp_path / "tmp").iterdir()) == []
    assert hub.files("owner/model").keys() == {".gitattributes"}
