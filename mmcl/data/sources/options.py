"""What stands behind the ``?`` of a data reference: ``key=value`` pairs joined by ``&``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection
from urllib.parse import parse_qsl

from mmcl.errors import ConfigError


def split_options(base: str) -> tuple[str, dict[str, str]]:
    """``path/to/data?key=value&key=value`` -> ``path/to/data`` and its options; a file of that very name has none.

    Raises:
        ConfigError: a key without a value, or one that stands twice.
    """
    path, mark, query = base.partition("?")
    if not mark or os.path.exists(base):
        return base, {}
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if not value:
            raise ConfigError(f"{base}: {key!r} has no value; write {key}=VALUE")
        if key in options:
            raise ConfigError(f"{base}: {key!r} stands twice")
        options[key] = value
    return path, options


def check_options(base: str, options: Collection[str], known: Collection[str]) -> None:
    """Refuse options that this kind of data does not have.

    Raises:
        ConfigError: names the unknown key and the nearest known one.
    """
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{base}: unknown option {key!r}; known are {', '.join(known) or 'none'}{hint}")
