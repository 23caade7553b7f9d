"""Which files of a folder hold which split, as a card's ``configs`` say it to `datasets` and to the Hub's viewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl.data.sources.folder import METADATA_NAMES
from mmcl.data.sources.options import split_options
from mmcl.data.sources.tables.tables import TABLE_SUFFIXES
from mmcl.data.splits.names import canonical_split, is_split_name, split_prefix

_FILE_SUFFIXES = (*TABLE_SUFFIXES, ".tar")


def data_configs(base: str, splits: Sequence[str | None]) -> list[dict[str, Any]]:
    """The ``configs`` of a card that lies in the data's own folder.

    Args:
        base: the data without ``:SPLIT``.
        splits: the canonical names of those it has; [None] for data without splits.

    Returns:
        One config with the files of each split; empty where patterns of files cannot tell the splits apart (a column
        ``split`` in one table), and for data that are no folder or table here (shapes, vectors, Hub ids).
    """
    path = Path(split_options(base)[0]).expanduser()
    if path.is_file() and path.suffix.lower() in _FILE_SUFFIXES:
        return _config({"train": [path.name]}) if list(splits) == [None] else []
    if not path.is_dir() or (any((path / name).is_file() for name in METADATA_NAMES) and splits != [None]):
        return []
    by_split = _folders(path) or _files(path, "") or _files(path / "data", "data/")
    wanted = {split for split in splits if split is not None}
    if not by_split or set(by_split) != wanted:
        return []
    return _config({split: by_split[split] for split in splits if split is not None})


def _config(files: dict[str, list[str]]) -> list[dict[str, Any]]:
    entries = [{"split": split, "path": paths[0] if len(paths) == 1 else paths} for split, paths in files.items()]
    return [{"config_name": "default", "data_files": entries}]


def _folders(folder: Path) -> dict[str, list[str]]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_split_name(entry.name))
    return {canonical_split(name): [f"{name}/**"] for name in names}


def _files(folder: Path, prefix: str) -> dict[str, list[str]]:
    """Patterns such as ``train-*.tar`` for the files of each split; a lone file under its own name."""
    if not folder.is_dir():
        return {}
    found: dict[tuple[str, str, str], list[str]] = {}
    for entry in sorted(folder.iterdir()):
        spelt = split_prefix(entry.name) if entry.suffix.lower() in _FILE_SUFFIXES and entry.is_file() else None
        if spelt is not None:
            found.setdefault((canonical_split(spelt), spelt, entry.suffix), []).append(entry.name)
    patterns: dict[str, list[str]] = {}
    for (split, spelt, suffix), names in found.items():
        patterns.setdefault(split, []).append(prefix + (names[0] if len(names) == 1 else f"{spelt}*{suffix}"))
    return patterns
