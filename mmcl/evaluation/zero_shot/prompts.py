"""Classes, prompt templates and whole prompts for zero-shot classification, and the files that hold them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl.errors import DataError
from mmcl.evaluation.zero_shot.prompt_sets import TEMPLATE_SETS

# General ones, for things in photographs and drawings; a data set's own do better.
DEFAULT_TEMPLATES = (
    "{}",
    "a {}.",
    "a photo of a {}.",
    "a picture of a {}.",
    "a close-up photo of a {}.",
    "a photo of the {}.",
    "a drawing of a {}.",
    "an image showing a {}.",
)


def load_classes(path: str | Path) -> dict[str, str]:
    """Read classes as {label: readable name}, in the file's order.

    Args:
        path: ``.json``: ``{label: name}`` or a list of names; anything else: a class a line, ``label<TAB>name``, or
            a name alone, which then is the label too. Blank lines and lines that start with ``#`` are left out.

    Raises:
        DataError: the file is missing, empty or malformed, or names a label twice.

    Example:
        A file with the lines ``n01440764<TAB>tench`` and ``n01443537<TAB>goldfish`` gives
        ``{"n01440764": "tench", "n01443537": "goldfish"}``.
    """
    path = Path(path)
    if path.suffix == ".json":
        value = _read_json(path)
        if isinstance(value, dict):
            return _checked_names(path, list(value.items()))
        if isinstance(value, list):
            return _checked_names(path, [(name, name) for name in value])
        raise DataError(f"{path} needs a JSON object {{label: name}} or a list of names, got {type(value).__name__}")
    pairs = []
    for line in _read_lines(path):
        label, tab, name = line.partition("\t")
        pairs.append((label.strip(), name.strip() if tab else label.strip()))
    return _checked_names(path, pairs)


def load_templates(source: str | Path) -> list[str]:
    """Prompt templates, each with ``{}`` where the class name goes: a built-in set by its name, or a file's.

    Args:
        source: a name of ``TEMPLATE_SETS`` (``plain``, ``photo``, ``photo80``, ``art``), or a file. ``.json``: a list
            of templates; anything else: one a line, blank lines and ``#`` lines left out. A file that is called like
            a set is read as ``./photo``.

    Raises:
        DataError: there is no such set or file, the file is empty or malformed, or a template lacks ``{}``.

    Example:
        >>> load_templates("plain")[:2]
        ['{}', '{}.']
    """
    if str(source) in TEMPLATE_SETS:
        return list(TEMPLATE_SETS[str(source)])
    path = Path(source)
    if not path.exists():
        near = difflib.get_close_matches(str(source), TEMPLATE_SETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the built-in sets are {', '.join(TEMPLATE_SETS)}"
        raise DataError(f"templates: {source} does not exist and is no built-in set either; {hint}")
    value = _read_json(path) if path.suffix == ".json" else _read_lines(path)
    return check_templates(_strings(path, value), source=str(path))


def load_prompts(path: str | Path) -> dict[str, list[str]]:
    """Read whole prompts per class.

    Args:
        path: a JSON object ``{label: [prompt, ...]}``; a single string stands for a list of one.

    Raises:
        DataError: the file is missing or malformed, or a label has no prompt.
    """
    path = Path(path)
    value = _read_json(path)
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path} needs a JSON object {{label: [prompt, ...]}} with at least one label")
    return {
        label: _strings(f"{path}, label {label!r}", [prompts] if isinstance(prompts, str) else prompts)
        for label, prompts in value.items()
    }


def check_templates(templates: Sequence[str], *, source: str = "templates") -> list[str]:
    """The templates as a list, each known to hold ``{}``.

    Raises:
        DataError: there is none, or one lacks ``{}``.
    """
    for template in templates:
        if "{}" not in template:
            raise DataError(
                f"{source}: template {template!r} lacks {{}}, the place of the class name; write 'a photo of a {{}}.'"
            )
    if not templates:
        raise DataError(f"{source} needs at least one template, got none")
    return list(templates)


def fill_templates(classes: Mapping[str, str], templates: Sequence[str]) -> dict[str, list[str]]:
    """{label: prompts}: every template with the class's readable name in the place of ``{}``.

    Example:
        >>> fill_templates({"cat_1": "cat"}, ["a photo of a {}."])
        {'cat_1': ['a photo of a cat.']}
    """
    return {label: [template.replace("{}", name) for template in templates] for label, name in classes.items()}


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}") from error
    if not text.strip():
        raise DataError(f"{path} is empty")
    return text


def _read_lines(path: Path) -> list[str]:
    lines = [line.strip() for line in _read(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _read_json(path: Path) -> Any:
    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        if repeated:
            raise DataError(f"{path} names {repeated[0]!r} twice; each label stands once")
        return dict(pairs)

    try:
        return json.loads(_read(path), object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _checked_names(path: Path, pairs: list[tuple[Any, Any]]) -> dict[str, str]:
    names: dict[str, str] = {}
    for label, name in pairs:
        if not isinstance(label, str) or not isinstance(name, str) or not label.strip() or not name.strip():
            raise DataError(f"{path}: label {label!r} needs one non-empty name, got {name!r}")
        if label in names:
            raise DataError(f"{path} names {label!r} twice; each label stands once")
        names[label] = name
    if not names:
        raise DataError(f"{path} names no class")
    return names


def _strings(source: str | Path, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item.strip() for item in value):
        raise DataError(f"{source} needs a list of at least one non-empty string, got {value!r}"[:300])
    return value
