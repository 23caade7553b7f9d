"""The wheel: what `pip install` brings is enough to run without a checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="needs hatchling: pip install '.[test]'")


def build(kind: str, source: Path, folder: Path) -> Path:
    """A wheel or sdist, by the build backend itself: no network, no build environment."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", checkout, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_it_holds_code_recipes_cards_and_licence(wheel: Path, checkout: Path) -> None:
    held = contents(wheel)
    wanted = {
        **{str(path.relative_to(checkout)): path for path in (checkout / "mmcl").rglob("*.py")},
        **{f"mmcl/recipes/configs/{path.name}": path for path in (checkout / "recipes" / "configs").glob("*.yaml")},
        **{str(path.relative_to(checkout)): path for path in (checkout / "mmcl").rglob("*.html")},
        **{str(path.relative_to(checkout)): path for path in (checkout / "mmcl" / "data").rglob("*.md")},
        **{f"mmcl/recipes/suites/{path.name}": path for path in (checkout / "recipes" / "suites").glob("*.yaml")},
        **{f"mmcl/recipes/data_cards/{path.name}": path for path in (checkout / "data_cards").glob("*.md")},
        "mmcl/py.typed": checkout / "mmcl" / "py.typed",
    }
    assert sum(name.endswith(".yaml") for name in wanted) == 17
    assert "mmcl/pages/page.html" in wanted
    assert {name: held.get(name) for name in wanted} == {name: path.read_bytes() for name, path in wanted.items()}
    about = [name for name in held if name not in wanted]
    assert all(name.split("/")[0].endswith(".dist-info") for name in about), about  # no tests, no caches
    assert any(name.endswith("licenses/LICENSE") for name in about)
    entry_points = next(held[name] for name in about if name.endswith("entry_points.txt"))
    assert b"mmcl = mmcl.cli.main:main" in entry_points


def test_it_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import mmcl; from mmcl.cli.main import app, run_guarded\n"
        "print(mmcl.__file__)\n"
        "run_guarded(lambda: app(['recipes', 'copy', 'quickstart']))\n"
        "sys.exit(run_guarded(lambda: app(['recipes', 'card', 'quickstart'])))\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert "Scenes drawn by code" in done.stdout
    assert (tmp_path / "quickstart.yaml").read_bytes() == (site / "mmcl/recipes/configs/quickstart.yaml").read_bytes()


def test_the_source_archive_builds_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    archive = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "source", filter="data")
    source = next((tmp_path / "source").iterdir())
    again = build("wheel", source, tmp_path / "again")
    assert contents(again) == contents(wheel)
