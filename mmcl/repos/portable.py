"""Names that mean the same on every machine: local paths in configs and recipes become their last parts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

# What may stand before a path in the name of a model, a tower or data.
_PREFIX = re.compile(
    r"(?:open_clip|vectors|sentence-transformers|onnx):|file:(?://)?|timm:[^?\s]*\?checkpoint=|\w+=(?=[~/])"
)
# Inside a longer text: an absolute path of two parts or more that does not belong to an address.
_INSIDE = re.compile(r"(?<![\w.:/<>~-])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+,=-]+){2,}[/\\]?")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
# Vocabularies: their strings are what models read, not names of files.
_LEFT_ALONE = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json", "evaluation.json")
_LARGEST = 2**23


def portable_text(text: str) -> str:
    """A text with its local paths replaced by their last parts; any other text unchanged.

    A path inside an installed package keeps its ``package:`` name; addresses of the web stay as they are.

    Example:
        >>> portable_text("/home/someone/data/emoji:test"), portable_text("timm:x?checkpoint=/home/someone/x.pth")
        ('emoji:test', 'timm:x?checkpoint=x.pth')
        >>> portable_text("owner/name"), portable_text("../data/emoji")
        ('owner/name', 'emoji')
    """
    prefix = _PREFIX.match(text)
    if prefix is not None:
        return prefix[0] + portable_text(text[prefix.end() :])
    if "\n" not in text and _is_local_path(text):
        return _last_part(text)
    return _INSIDE.sub(lambda match: _last_part(match[0]), text)


def _is_local_path(text: str) -> bool:
    if text.startswith(("~/", "../", "./")) or _WINDOWS.match(text):
        return True
    return text.startswith("/") and not text.startswith("//") and len(PurePosixPath(text).parts) > 2


def _last_part(path: str) -> str:
    parts = PureWindowsPath(path).parts if _WINDOWS.match(path) else PurePosixPath(path).parts
    named = [part for part in parts if part not in ("/", "~", "..", ".")]
    return named[-1] if named else "local"


def portable_value(value: Any) -> Any:
    """The same for every text in nested lists and dictionaries; keys stay."""
    if isinstance(value, dict):
        return {key: portable_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable_value(inner) for inner in value]
    return portable_text(value) if isinstance(value, str) else value


def make_portable(folder: Path) -> list[str]:
    """Replace local paths in the configs of a folder that is to be published.

    Args:
        folder: a folder of copies; a file is replaced, so that what it was linked to stays.

    Returns:
        The paths of the files that were changed, sorted.
    """
    changed = []
    for path in sorted(folder.rglob("*")):
        name = path.name
        if path.suffix not in (".json", ".yaml", ".yml") or name in _LEFT_ALONE or path.is_symlink():
            continue
        if not path.is_file() or path.stat().st_size > _LARGEST or name.endswith(".index.json"):
            continue
        if _rewrite(path):
            changed.append(path.relative_to(folder).as_posix())
    return changed


def _rewrite(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return False  # what cannot be read as its name says is refused later, by name
    portable = portable_value(value)
    if portable == value:
        return False
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(dump_config(portable, path.suffix), encoding="utf-8")
    os.replace(beside, path)
    return True


def dump_config(value: Any, suffix: str) -> str:
    """A config as text: JSON, or YAML with its keys in their order."""
    if suffix == ".json":
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
