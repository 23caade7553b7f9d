"""The names of splits: which spellings mean the same, and which of those there are is meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from mmcl.errors import DataError

_ALIASES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}
_ORDER = ("train", "validation", "test")


def canonical_split(name: str) -> str:
    """One name for one split: val, valid, dev and eval are ``validation``; case does not count for known names."""
    lower = name.strip().lower()
    known = _ALIASES.get(lower, lower)
    return known if known in _ORDER else name.strip()


def is_split_name(name: str) -> bool:
    """Whether a folder or file of this name is a split: train, validation (val, valid, dev, eval) or test."""
    return canonical_split(name) in _ORDER


def split_prefix(name: str) -> str | None:
    """The split that a file name begins with (``train-00000-of-00004.parquet``, ``val.csv``), as it is spelt."""
    match = re.match(r"[A-Za-z]+", name)
    if match is None or not is_split_name(match[0]) or name[match.end() : match.end() + 1] not in {"", "-", "_", "."}:
        return None
    return match[0]


def canonical_splits(names: Sequence[str]) -> list[str]:
    """The distinct canonical names, train, validation and test first."""
    found = {canonical_split(name) for name in names}
    return [name for name in _ORDER if name in found] + sorted(found - set(_ORDER))


def choose_split(names: Sequence[str], asked: str | None, *, data: str) -> str | None:
    """The one of ``names`` that is meant.

    Args:
        names: the splits there are; empty for data without splits.
        asked: the split that was asked for, in any spelling; None for "the only one".
        data: the data set, for the message.

    Returns:
        A member of ``names``; None for data without splits.

    Raises:
        DataError: no such split, or several and none asked for; the message lists those there are.
    """
    if not names:
        if asked is None:
            return None
        raise DataError(f"{data} has no splits, so no {asked!r}; leave the split out")
    listed = ", ".join(canonical_splits(names))
    if asked is None:
        if len(canonical_splits(names)) == 1:
            return names[0]
        raise DataError(f"{data} has several splits ({listed}); name one, as in {data}:{canonical_splits(names)[-1]}")
    for candidate in names:
        if candidate == asked or canonical_split(candidate) == canonical_split(asked):
            return candidate
    near = difflib.get_close_matches(asked, list(names), n=1)
    raise DataError(
        f"{data} has no split {asked!r}; it has {listed}" + (f" (did you mean {near[0]!r}?)" if near else "")
    )
