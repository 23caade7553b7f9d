"""`AskedRecipe`: the recipe as it was asked, kept beside the results, and what settings make of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmcl.auto_recipe import resolve_recipe
from mmcl.config import Recipe, apply_overrides, find_recipe, load_recipe, parse_yaml
from mmcl.errors import ConfigError
from mmcl.logs import get_logger

log = get_logger(__name__)

COPY = "recipe.yaml"  # in the folder of a search: the file it was begun with
WRITTEN_BY_RUNS = "environment"


@dataclass(frozen=True)
class AskedRecipe:
    """A copy of a recipe's file, and the ``key=value`` pairs it was asked with.

    Attributes:
        path: the copy; a change of the original during a search changes nothing.
        name: of the recipe.
        overrides: as they were given.
    """

    path: Path
    name: str
    overrides: tuple[str, ...]

    @classmethod
    def copy(
        cls,
        reference: str | Path,
        overrides: Sequence[str],
        folder: Path,
        *,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> AskedRecipe:
        """Copy a recipe's file into the folder of a search, where none is yet.

        Of ``recipe: auto`` the copy is what is chosen for the data and the machine, once.

        Raises:
            ConfigError: no such recipe; something in it is wrong; or the folder holds another recipe's search.
        """
        source = find_recipe(reference)
        recipe = load_recipe(source, overrides)  # all that is wrong is told before a folder is made
        target, content, name = folder / COPY, source.read_bytes(), recipe.name
        if recipe.recipe is not None:
            overrides = ()  # they are part of what is chosen
            if target.is_file():
                content = target.read_bytes()
            else:
                _, choice = resolve_recipe(recipe, progress=progress)
                content = choice.recipe_text().encode()
                log.info("%s", choice.paragraph)
        if target.is_file() and target.read_bytes() != content:
            raise ConfigError(
                f"--resume: {source} is not what {folder} was begun with ({target}); take that file, or another -o"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not target.is_file():
                partial = folder / f".{COPY}.partial"
                partial.write_bytes(content)
                os.replace(partial, target)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error.strerror or error}); set -o FOLDER") from error
        return cls(target, name, tuple(overrides))

    def recipe(self, settings: Mapping[str, str] | None = None, *extra: str) -> Recipe:
        """The recipe with settings, as ``mmcl train RECIPE key=value ...`` would read it.

        Args:
            settings: dotted keys to YAML.
            extra: further ``key=value`` pairs.

        Raises:
            ConfigError: what the settings make is no recipe.
        """
        pairs = [f"{key}={value}" for key, value in (settings or {}).items()]
        return load_recipe(self.path, [f"name={json.dumps(self.name)}", *self.overrides, *pairs, *extra])

    def tree(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """The recipe with settings as plain values: what a file of it holds. It names no run folder."""
        tree = parse_yaml(self.path.read_text(encoding="utf-8"), source=str(self.path))
        tree.pop(WRITTEN_BY_RUNS, None)
        apply_overrides(tree, [*self.overrides, *(f"{key}={value}" for key, value in settings.items())])
        if isinstance(tree.get("run"), dict):
            tree["run"].pop("dir", None)
            if not tree["run"]:
                del tree["run"]
        return {"name": f"{self.name}-tuned", **{key: value for key, value in tree.items() if key != "name"}}

    def write(self, path: Path, settings: Mapping[str, str], *, comments: Sequence[str]) -> None:
        """Write a whole recipe, with the command that runs it as its first line.

        Args:
            path: the file.
            settings: dotted keys to YAML.
            comments: further lines at its head.
        """
        lines = [f"# mmcl train {path}", *(f"# {line}" for line in comments)]
        text = yaml.safe_dump(self.tree(settings), sort_keys=False, allow_unicode=True, width=1000)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")
        os.replace(partial, path)
