"""Who may import whom, and a few rules that keep the package findable. Read from the source, nothing is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mmcl"

# Each part of the package, and the parts it may import besides itself. Lower parts know nothing of higher ones.
BASE = {"errors", "config", "batch", "logs", "memory"}
# What is made of a recipe, and what that is made with.
BUILT = BASE | {"build", "builders", "auto_recipe", "data", "doctor", "embedder", "evaluation", "models", "objectives"}
BUILT |= {"pages", "training"}
MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(BASE, BASE),  # data only, torch at most
    "losses": BASE,  # tensors in, tensors out: never models, data or distributed state
    "negatives": BASE,
    "noise": BASE,  # which pairs are to be trusted
    "repos": BASE,  # files to the Hub and back
    "runtime": {"errors"},  # models without torch
    "models": BASE | {"losses", "negatives", "repos"},
    "pages": BASE,  # HTML of tables and pictures
    "data": BASE | {"losses", "negatives", "pages"},
    "embedder": BASE | {"models", "data", "repos", "runtime"},
    "evaluation": BASE | {"embedder", "data", "pages"},  # sees embedders and arrays only
    "doctor": BASE | {"models", "data", "embedder", "evaluation", "pages"},  # what is wrong with a training
    "auto_recipe": BASE | {"data", "models"},
    "objectives": BASE | {"models", "losses", "negatives", "noise"},
    "training": BASE
    | {"models", "data", "doctor"},  # is handed objective and evaluators; the trainer itself knows no data either
    "hub": BASE
    | {"repos", "runtime", "models", "data", "embedder", "evaluation", "training", "pages"},  # ships what was trained
    "builders": BASE
    | {"losses", "negatives", "noise", "models", "data", "embedder", "evaluation", "objectives", "training"}
    | {"auto_recipe", "doctor", "hub"},  # names to objects
    "build": {"builders"},
    "plan": BUILT,  # what a training will cost
    "tuning": BUILT,  # which settings are best
    "cli": BUILT | {"hub", "plan", "repos", "tuning"},
    "__main__": {"cli"},
    "__init__": set(),  # imports lazily, by name
}
# Modules that a dependency brings under another name than its distribution's.
IMPORT_NAMES = {"open_clip_torch": "open_clip", "pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(module, line) of every import, in functions too; those under ``if TYPE_CHECKING`` never run and are exempt."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write the whole name"
            if node.module == "mmcl":
                yield from ((f"mmcl.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield node.module or "", node.lineno
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for branch in node.orelse:
                yield from imports(branch)
        else:
            yield from imports(node)


def part_of(module: str) -> str | None:
    """The part of the package that a module is in; None for the package itself and what it names (``__version__``)."""
    part = module.removeprefix("mmcl").removeprefix(".").partition(".")[0]
    return part if (part and (PACKAGE / part).is_dir()) or (PACKAGE / f"{part}.py").is_file() else None


def test_the_parts_are_those_that_are_there() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT[part] | {part}
    wrong = [
        f"{name_of(path)}:{line} imports {module}"
        for module, line in imports(parse(path))
        if module.partition(".")[0] == "mmcl" and part_of(module) not in {None, *allowed}
    ]
    assert wrong == []


def test_the_trainer_is_handed_its_data() -> None:
    used = {part_of(module) for module, _ in imports(parse(PACKAGE / "training" / "trainer.py"))}
    assert used - {None} <= BASE | {"training", "models", "doctor"}


@pytest.mark.parametrize(
    "code", ["import mmcl.data.dataset", "def f():\n    from mmcl.data import load", "from mmcl import data"]
)
def test_the_check_sees_wrong_imports(code: str) -> None:
    # A control: what the test above must find, and what it must not.
    found = [part_of(module) for module, _ in imports(ast.parse(code))]
    assert found == ["data"]
    guarded = "if TYPE_CHECKING:\n" + "\n".join(f"    {line}" for line in code.splitlines())
    assert list(imports(ast.parse(guarded))) == []


def declared(text: str) -> set[str]:
    """Import names of the distributions named in a part of pyproject.toml."""
    names = re.findall(r'"([A-Za-z0-9_-]+)(?:\[[^]]*\])?(?:[><=!~][^"]*)?"', text)
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def dependencies() -> tuple[set[str], set[str]]:
    """Import names of the core dependencies, and of the extras'."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    core = re.search(r"^dependencies = \[(.*?)^\]", text, flags=re.DOTALL | re.MULTILINE)
    extras = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", text, flags=re.DOTALL | re.MULTILINE)
    assert core is not None
    assert extras is not None
    return declared(core[1]), declared(extras[1])


def test_every_library_that_is_imported_is_a_declared_dependency() -> None:
    core, _ = dependencies()
    used = {
        (module.partition(".")[0], name_of(path)) for path in MODULES for module, _ in imports(parse(path)) if module
    }
    undeclared = {use for use in used if use[0] not in {*core, "mmcl", *sys.stdlib_module_names}}
    assert undeclared == set(), "an import of an extra goes through mmcl.errors.require"


def test_the_base_needs_torch_at_most() -> None:
    known = {"mmcl", "pydantic", "yaml", *sys.stdlib_module_names}
    for part in BASE:
        files = [path for path in MODULES if path.relative_to(PACKAGE).parts[0].removesuffix(".py") == part]
        assert files, part
        libraries = {module.partition(".")[0] for path in files for module, _ in imports(parse(path))} - known
        assert libraries <= ({"torch"} if part in ("batch", "memory") else set()), part


def test_no_module_is_named_like_another_library() -> None:
    core, extras = dependencies()
    taken = {*sys.stdlib_module_names, *core, *extras} - {"__main__"}
    assert {"ssl", "types", "timm", "datasets"} <= taken
    assert [name_of(path) for path in MODULES if path.stem in taken] == []
    assert [name_of(path.parent) for path in MODULES if path.name == "__init__.py" and path.parent.stem in taken] == []


def test_no_module_is_a_drawer_for_everything() -> None:
    drawers = re.compile(r"utils?|misc|helpers?|common|legacy_.*")
    assert [name_of(path) for path in MODULES if drawers.fullmatch(path.stem)] == []


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes of a module without a docstring; methods may speak through their protocol's."""
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return [node.name for node in public if not node.name.startswith("_") and ast.get_docstring(node) is None]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_public_names_say_what_they_are(path: Path) -> None:
    tree = parse(path)
    assert undocumented(tree) == []
    if tree.body:
        assert ast.get_docstring(tree), "the module has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    if "cli" in path.relative_to(PACKAGE).parts:
        return
    calls = [node for node in ast.walk(parse(path)) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"] == []


def test_installed_libraries_are_the_declared_ones() -> None:
    # What the two tests above take for import names is right for everything that is installed here.
    core, _ = dependencies()
    assert sorted(core - set(packages_distributions())) == []
