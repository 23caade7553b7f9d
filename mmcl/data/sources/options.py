"""What stands behind the ``?`` of a data reference: ``key=value`` pairs joined by ``&``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Mapping
from urllib.parse import unquote

from mmcl.errors import ConfigError

_YES_OR_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def split_options(base: str) -> tuple[str, dict[str, str]]:
    """``path/to/data?key=value&key=value`` -> ``path/to/data`` and its options; a file of that very name has none.

    In a value ``%26`` stands for ``&`` and ``%25`` for ``%``.

    Raises:
        ConfigError: a key without a value, or one that stands twice.

    Example:
        >>> split_options("data/products.csv?by=brand&seed=1")
        ('data/products.csv', {'by': 'brand', 'seed': '1'})
    """
    path, mark, query = base.partition("?")
    if not mark or os.path.exists(base):
        return base, {}
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if not value:
            raise ConfigError(f"{base}: {key!r} has no value; write {key}=VALUE")
        if key in options:
            raise ConfigError(f"{base}: {key!r} stands twice")
        options[key] = unquote(value)
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


def whole_number(base: str, options: Mapping[str, str], key: str, default: int) -> int:
    """The value of an option that is a whole number from 0.

    Raises:
        ConfigError: it is none.
    """
    value = options.get(key, str(default))
    if not (value.isascii() and value.isdecimal()):
        raise ConfigError(f"{base}: {key}={value!r} is no whole number")
    return int(value)


def yes_or_no(base: str, options: Mapping[str, str], key: str, *, default: bool) -> bool:
    """The value of an option that is true or false (or yes, no, 1, 0).

    Raises:
        ConfigError: it is neither.
    """
    value = options.get(key)
    if value is None:
        return default
    if value.lower() not in _YES_OR_NO:
        raise ConfigError(f"{base}: {key}={value!r} is neither true nor false")
    return _YES_OR_NO[value.lower()]
