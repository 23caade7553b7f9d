"""The README's promises that a test can hold it to: its commands, its tree, its links."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mmcl.config import shipped_recipes

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def readme(checkout: Path) -> str:
    return (checkout / "README.md").read_text(encoding="utf-8")


def commands(readme: str) -> dict[str, list[str]]:
    blocks = re.findall(r"<!-- command: (\w+) -->\n```bash\n(.*?)```\n<!-- end -->", readme, flags=re.DOTALL)
    return {name: block.splitlines() for name, block in blocks}


def test_two_commands_do_all_the_set_up(readme: str) -> None:
    found = commands(readme)
    assert list(found) == ["quickstart", "tests"]
    assert all(len(lines) == 1 and lines[0].startswith("python3 -m venv .venv && ") for lines in found.values())
    assert found["quickstart"][0].endswith("mmcl train quickstart")
    assert found["tests"][0].endswith("pytest")


def test_ci_takes_its_command_from_the_readme(checkout: Path, readme: str) -> None:
    # The very extraction of .ci/run, and nothing of its own that could differ.
    script = (checkout / ".ci" / "run").read_text(encoding="utf-8")
    extract = re.search(r"^command=\$\((.*)\)$", script, flags=re.MULTILINE)
    assert extract is not None
    seen = subprocess.run(["bash", "-c", extract[1]], cwd=checkout, capture_output=True, text=True, check=True).stdout
    assert seen.splitlines() == commands(readme)["tests"]
    assert "pytest" not in re.sub(r"#.*", "", script)


def tree_paths(readme: str) -> set[str]:
    """The files and folders of the README's tree, as paths."""
    block = re.search(r"## Where things are\n```\n(.*?)```", readme, flags=re.DOTALL)
    assert block is not None
    paths: set[str] = set()
    folders: list[str] = []
    for line in block[1].splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = folders[:depth]
        paths.add("/".join([*folders, name.rstrip("/")]))
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
    return paths


def test_the_tree_names_every_module_and_nothing_else(checkout: Path, readme: str) -> None:
    listed = tree_paths(readme)
    missing = sorted(path for path in listed if not (checkout / path).exists())
    assert missing == [], "in the README's tree, but not there"
    modules = {
        str(path.relative_to(checkout))
        for folder in ("mmcl", "recipes")
        for path in (checkout / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert sorted(modules - listed) == [], "not in the README's tree"


def test_links_lead_somewhere(checkout: Path, readme: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", readme)
    assert links
    assert [link for link in links if "://" not in link and not (checkout / link).exists()] == []


def test_the_table_lists_every_recipe(readme: str) -> None:
    listed = re.findall(r"^\| `(\w+)` \|.*\[.*\]\(data_cards/", readme, flags=re.MULTILINE)
    assert sorted(listed) == sorted(shipped_recipes())


def snippets(readme: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)


def test_its_python_runs(readme: str, tiny_run: Path, run_python: Run, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
    code = snippets(readme)[0].replace("runs/quickstart", str(tiny_run)).replace("shapes:test", "shapes?test=40:test")
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tensor(" in done.stdout


def test_the_plain_quickstart_opens_in_transformers(
    readme: str, run_mmcl: Run, run_python: Run, tmp_path: Path
) -> None:
    overrides = re.search(r"`mmcl train quickstart (run\.dir=runs/plain[^`]*)`", readme)
    assert overrides is not None
    done = run_mmcl("train", "quickstart", "--smoke", *overrides[1].split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    compare = (
        "import mmcl, torch\n"
        "texts = ['a red star', 'two small striped blue moons on a plain background']\n"
        "inputs = tokenizer(texts, padding=True, return_tensors='pt')\n"
        "features = model.get_text_features(**inputs)\n"
        "features = getattr(features, 'pooler_output', features)\n"
        "mine = mmcl.load('runs/plain').encode_text(texts)\n"
        "print((torch.nn.functional.normalize(features, dim=-1) - mine).abs().max().item() < 1e-5)\n"
    )
    done = run_python("-c", snippets(readme)[1] + compare, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "True"
