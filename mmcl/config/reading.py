"""From a YAML file and overrides to a checked recipe, with errors that say where and what is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmcl.config.keys import nearest_key
from mmcl.config.recipe import Recipe
from mmcl.errors import ConfigError

# What --smoke changes in every recipe; a recipe's own ``smoke`` section adds to it.
SMOKE: dict[str, Any] = {
    "data.max_rows": 64,
    "train.max_steps": 4,
    "train.batch_size": 16,
    "train.log_every": 1,
    "evaluate.every_epochs": None,
    "evaluate.every_steps": 4,
    "evaluate.max_rows": 64,
}


class _RecipeLoader(yaml.SafeLoader):
    """YAML as people write it: 1e-3 is a number (YAML 1.1 reads a string), a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                problem = f"the key {key!r} is no name"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            if key in seen:
                problem = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, *, source: str) -> Any:
    """YAML to Python values, with the file and line in the error.

    Raises:
        ConfigError: the text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_RecipeLoader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise ConfigError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from error


def _set(tree: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    *parents, leaf = key.split(".")
    for depth, name in enumerate(parents):
        child = tree.setdefault(name, {})
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{source}: {'.'.join(parents[: depth + 1])} is {child!r}, so {key} cannot be set in it")
        tree = child
    tree[leaf] = value


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set ``key=value`` pairs in a recipe's tree, in order; values are YAML.

    Raises:
        ConfigError: a pair has no ``=``.
    """
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"override {override!r}: want key=value, such as train.batch_size=64")
        _set(tree, key.strip(), parse_yaml(text, source=f"override {override!r}"), source=f"override {override!r}")


def explain_problems(
    error: ValidationError, source: str, *, nearest: Callable[[str], str | None] = nearest_key, whole: str = "recipe"
) -> str:
    """One line for a person of all that is wrong.

    Args:
        error: of the models.
        source: the file, named first.
        nearest: the known key most like an unknown one.
        whole: what the file is.
    """
    lines = []
    for problem in error.errors():
        union_free = [
            str(part) for part in problem["loc"] if not re.search(r"[\[\](]|^(bool|int|str|float)$", str(part))
        ]
        key = ".".join(union_free)
        if problem["type"] == "extra_forbidden":
            near = nearest(key)
            lines.append(f"unknown key {key!r}" + (f"; did you mean {near!r}?" if near else ""))
        elif problem["type"] == "missing":
            lines.append(f"missing key {key!r}; every {whole} needs it")
        elif problem["type"] == "value_error":
            lines.append(str(problem["ctx"]["error"]))
        else:
            lines.append(f"{key} is {problem['input']!r} ({type(problem['input']).__name__}): {problem['msg'].lower()}")
    return f"{source}: " + "; ".join(dict.fromkeys(lines))


def recipe_from_tree(tree: Any, *, source: str) -> Recipe:
    """A checked recipe from nested dictionaries.

    Raises:
        ConfigError: an unknown key (with the nearest known one), a wrong type, a value out of range, a missing key.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: a recipe is a mapping of sections, found {type(tree).__name__}")
    sections = {name for name, field in Recipe.model_fields.items() if isinstance(field.annotation, type)}
    tree = {key: ({} if value is None and key in sections else value) for key, value in tree.items()}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain_problems(error, source)) from error


def recipe_folders() -> list[Path]:
    """Where recipes that ship with mmcl are: the source checkout's folder, or the wheel's."""
    package = Path(__file__).parents[1]
    return [f for f in (package.parent / "recipes" / "configs", package / "recipes" / "configs") if f.is_dir()]


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every recipe that ships with mmcl."""
    return {path.stem: path for folder in reversed(recipe_folders()) for path in sorted(folder.rglob("*.yaml"))}


def find_recipe(reference: str | Path) -> Path:
    """The file of a recipe: a path, or the name of a recipe that ships with mmcl.

    Raises:
        ConfigError: neither; names the nearest.
    """
    path = Path(reference)
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(reference) in shipped:
        return shipped[str(reference)]
    near = difflib.get_close_matches(path.stem, shipped, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"no recipe {str(reference)!r}: it is neither a file nor one of {', '.join(sorted(shipped))}{hint}"
    )


def load_recipe(reference: str | Path, overrides: Sequence[str] = (), *, smoke: bool = False) -> Recipe:
    """Read, override and check a recipe.

    Args:
        reference: a YAML file, or the name of a shipped recipe.
        overrides: ``key=value`` pairs, applied in order; values are YAML.
        smoke: apply the recipe's ``smoke`` overrides (a few steps), before ``overrides``.

    Raises:
        ConfigError: no such recipe; not YAML; an unknown key, a wrong type, a value out of range.

    Example:
        >>> load_recipe("quickstart", ["train.batch_size=64"]).train.batch_size
        64
    """
    path = find_recipe(reference)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no recipe can be read from it ({error})") from error
    tree = parse_yaml(text, source=str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of sections, found {type(tree).__name__}")
    tree.setdefault("name", path.stem)
    tree.pop("environment", None)  # a run's config.yaml says where it ran: no part of what is to be run
    if smoke:
        folder = (tree.get("run") or {}).get("dir") or f"runs/{tree['name']}"
        _set(tree, "run.dir", _unused_folder(f"{folder}-smoke"), source=str(path))
        for key, value in {**SMOKE, **(tree.get("smoke") or {})}.items():
            _set(tree, key, value, source=f"{path}: smoke")
    apply_overrides(tree, overrides)
    return recipe_from_tree(tree, source=str(path))


def _unused_folder(folder: str) -> str:
    """The folder itself, or the first of folder-2, folder-3 ... that holds no run: a smoke test can be repeated."""
    number, candidate = 1, folder
    while (Path(candidate) / "config.yaml").exists():
        number += 1
        candidate = f"{folder}-{number}"
    return candidate
