"""The command itself: quick to start, and clear about what it can do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mmcl

HEAVY = ("torch", "numpy", "pyarrow", "transformers", "torchvision", "timm", "open_clip", "datasets", "sklearn")
COMMANDS = (
    ("train",),
    ("tune",),
    ("eval", "retrieval"),
    ("eval", "zeroshot"),
    ("eval", "suite"),
    ("eval", "probe"),
    ("eval", "knn"),
    ("eval", "clusters"),
    ("eval", "geometry"),
    ("eval", "domains"),
    ("eval", "robustness"),
    ("eval", "foils"),
    ("eval", "languages"),
    ("eval", "compare"),
    ("eval", "forgetting"),
    ("export",),
    ("push",),
    ("plan",),
    ("doctor",),
    ("shrink", "dimensions"),
    ("shrink", "embeddings"),
    ("data", "audit"),
    ("data", "augment"),
    ("data", "card"),
    ("data", "convert"),
    ("data", "inspect"),
    ("data", "make"),
    ("data", "mine"),
    ("data", "split"),
    ("merge", "interpolate"),
    ("merge", "soup"),
    ("merge", "lora"),
    ("card",),
    ("recipes",),
    ("recipes", "show"),
    ("recipes", "card"),
    ("recipes", "copy"),
    ("recipes", "keys"),
)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["recipes"], ["recipes", "keys"], ["--version"]]
)
def test_it_starts_without_heavy_libraries(arguments: list[str], run_python, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from mmcl.cli.main import app, run_guarded\n"
        f"code = run_guarded(lambda: app({arguments!r}))\n"
        f"print('loaded', code, [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "loaded 0 []", done.stdout + done.stderr


def test_the_check_for_heavy_libraries_would_see_one(run_python, tmp_path: Path) -> None:
    done = run_python("-c", "import sys, numpy; print([n for n in ('numpy',) if n in sys.modules])", cwd=tmp_path)
    assert done.stdout == "['numpy']\n"


def test_version(invoke) -> None:
    done = invoke("--version")
    assert (done.code, done.out) == (0, f"mmcl {mmcl.__version__}\n")


def test_version_is_the_packages_own(checkout: Path) -> None:
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^version = "(.*)"$', text, flags=re.MULTILINE)[1] == mmcl.__version__


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command: tuple[str, ...], invoke) -> None:
    done = invoke(*command, "--help")
    assert done.code == 0
    assert re.search(rf"Examples?: mmcl {' '.join(command)}\b", " ".join(done.out.split())), done.out


def test_every_command_was_asked_for_help() -> None:
    # A new command joins COMMANDS, or this fails.
    import typer

    from mmcl.cli.main import app

    def walk(command, path: tuple[str, ...]):
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))
        if path and (not hasattr(command, "commands") or command.invoke_without_command):
            yield path

    assert sorted(walk(typer.main.get_command(app), ())) == sorted(COMMANDS)


@pytest.mark.parametrize("arguments", [["trian"], ["train", "quickstart", "--fast"], ["eval", "retrieval", "runs/x"]])
def test_bad_usage_exits_with_2(arguments: list[str], invoke) -> None:
    done = invoke(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err


def test_the_module_is_the_command(run_python, tmp_path: Path) -> None:
    assert run_python("-m", "mmcl", "--version", cwd=tmp_path).stdout == f"mmcl {mmcl.__version__}\n"
