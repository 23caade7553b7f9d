"""References of a suite: which are models and which are data, whether they are there, and a hash of their files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mmcl import data as data_sources
from mmcl.data.sources.tables.tables import TABLE_SUFFIXES
from mmcl.errors import ConfigError
from mmcl.models.opening.kinds import MARKS
from mmcl.models.opening.references import HUB_PREFIX, parse_tower, resolve_path
from mmcl.models.saving import DESCRIPTION
from mmcl.models.towers.open_clip_tower import read_open_clip_config

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?(\?config=[\w.-]+)?")
_NAME = re.compile(r"[\w.+() -]+")


def named(text: str) -> tuple[str, str]:
    """``NAME=REFERENCE`` taken apart; a reference alone is its own name.

    Example:
        >>> named("mine=runs/a"), named("shapes?test=40:test")
        (('mine', 'runs/a'), ('shapes?test=40:test', 'shapes?test=40:test'))
    """
    name, sign, reference = text.partition("=")
    return (name, reference) if sign and reference and _NAME.fullmatch(name) else (text, text)


def model_folder(reference: str) -> Path | None:
    """The folder whose files are a model; None where the reference names no local folder that holds one."""
    path = reference
    for prefix in ("open_clip:", "sentence-transformers:", "onnx:"):
        path = path.removeprefix(prefix)
    if reference.startswith("onnx:"):
        path = path.removesuffix("/int8").removesuffix("/fp32")
    folder = Path(os.path.expanduser(resolve_path(path)))
    if not folder.is_dir():
        return None
    if (folder / "model" / DESCRIPTION).is_file():
        return folder / "model"
    if path != reference or any((folder / mark).is_file() for mark in MARKS):
        return folder
    return None


def check_model(reference: str) -> None:
    """Refuse a MODEL that cannot be loaded, as far as a look at names and files can tell.

    Raises:
        ConfigError: no such folder or file, no model in it, a tower alone, or an architecture unknown to open_clip.
    """
    if reference.startswith("vectors:"):
        path = Path(reference.removeprefix("vectors:")).expanduser()
        if not path.is_file():
            raise ConfigError(f"there is no file {path} (looked in {path.absolute().parent})")
    elif reference == "tiny" or reference.startswith("timm:"):
        raise ConfigError(f"{reference!r} is a tower, not a model of images and texts")
    elif reference.startswith("open_clip:"):
        if not parse_tower(reference).name.startswith(HUB_PREFIX):
            read_open_clip_config(parse_tower(reference).name)
    elif reference.startswith(("sentence-transformers:", "onnx:")):
        resolve_path(reference.partition(":")[2])
    elif model_folder(reference) is None:
        path = Path(os.path.expanduser(resolve_path(reference)))
        if path.is_dir():
            raise ConfigError(f"{path} holds no model: none of {', '.join(MARKS)}, here or in model/")
        if path.exists() or not _may_be_on_the_hub(reference):
            what = "a file, no model" if path.exists() else "not there"
            raise ConfigError(f"the model {reference!r} is {what} (looked for the folder {path.absolute()})")


def model_fingerprint(reference: str) -> str | None:
    """A short hash that changes when a model's files do (names, sizes and times); None for what is on a Hub."""
    file = _model_file(reference)
    if file is not None:
        files, root = [file], file.parent
    else:
        root = model_folder(reference)
        if root is None:
            return None
        files = sorted(path for path in root.rglob("*") if path.is_file() and not _hidden(path.relative_to(root)))
    digest = hashlib.sha256()
    for path in files:
        stat = path.stat()
        digest.update(f"{path.relative_to(root)}\x1f{stat.st_size}\x1f{stat.st_mtime_ns}\x1e".encode())
    return digest.hexdigest()[:16]


def _model_file(reference: str) -> Path | None:
    """The one file that a model is: vectors, or a checkpoint of open_clip's."""
    if reference.startswith("vectors:"):
        return Path(reference.removeprefix("vectors:")).expanduser()
    checkpoint = parse_tower(reference).checkpoint if reference.startswith("open_clip:") else None
    return Path(checkpoint) if checkpoint is not None and os.path.isfile(checkpoint) else None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def sort_references(
    references: Sequence[str], *, models: bool = False, data: bool = False
) -> tuple[list[str], list[str]]:
    """Which of MODEL... DATA... are which.

    A reference that says it itself is what it is. A Hub id may be either: the first of all is a model, the last is
    data, one that stands before a known model or behind known data goes with them. ``vectors:`` files are both, model
    and data, where nothing else is named.

    Args:
        references: as they stand in the command, each with or without a name (`named`).
        models: whether models are named elsewhere too, so that the first need be none.
        data: whether data are named elsewhere too.

    Returns:
        The models and the data, each in order.

    Raises:
        ConfigError: one could be either; the message says how to tell.

    Example:
        >>> sort_references(["openai/clip-vit-base-patch32", "shapes:test"])
        (['openai/clip-vit-base-patch32'], ['shapes:test'])
    """
    kinds = [_kind(named(reference)[1]) for reference in references]
    if kinds and not models and not data and set(kinds) == {"vectors"}:
        return list(references), list(references)
    known_models = [place for place, kind in enumerate(kinds) if kind == "model"]
    known_data = [place for place, kind in enumerate(kinds) if kind == "data"]
    last_model = max(known_models, default=-1 if models else 0)
    first_data = min(known_data, default=len(kinds) if data else len(kinds) - 1)
    for place, kind in enumerate(kinds):
        if kind in ("either", "vectors"):
            before, behind = place <= last_model, place >= first_data
            if before == behind:
                raise ConfigError(
                    f"{references[place]!r} may be a model or data; say which: --model {references[place]}, or "
                    f"--data {references[place]}"
                )
            kinds[place] = "model" if before else "data"
    return (
        [one for one, kind in zip(references, kinds) if kind == "model"],
        [one for one, kind in zip(references, kinds) if kind == "data"],
    )


def _kind(reference: str) -> str:
    """model, data, vectors (both), or either."""
    if reference.startswith("vectors:"):
        return "vectors"
    if reference.startswith(("open_clip:", "sentence-transformers:", "package:")) or model_folder(reference):
        return "model"
    base, split = data_sources.parse_reference(reference)
    path = Path(base).expanduser()
    if split is not None or base.partition("?")[0] == "shapes" or any(mark in base for mark in "{*@?"):
        return "data"
    if path.suffix.lower() in (*TABLE_SUFFIXES, ".json", ".tar") or path.exists():
        return "data"
    if _may_be_on_the_hub(reference):
        return "either"
    raise ConfigError(f"{reference!r} is neither a model nor data that is there (looked for {path.absolute()})")


def _may_be_on_the_hub(reference: str) -> bool:
    return (
        _HUB_ID.fullmatch(reference) is not None
        and not reference.startswith((".", "runs/"))
        and not os.path.isdir(reference.split("/")[0])
    )
