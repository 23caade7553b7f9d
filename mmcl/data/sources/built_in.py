"""``shapes?train=4000&test=200&seed=1&image_size=64``: the built-in data set by its reference."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from urllib.parse import parse_qsl

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits import choose_split
from mmcl.errors import ConfigError


def built_in_splits() -> list[str]:
    """The splits of ``shapes``."""
    from mmcl.data.shapes.scenes import SPLITS

    return list(SPLITS)


def load_built_in(
    base: str, *, split: str | None, progress: Callable[[str, int, int], None] | None = None
) -> ImageTextDataset:
    """Draw a split of ``shapes``.

    Args:
        base: ``shapes``, and behind ``?`` a size for any split, ``seed`` and ``image_size``.
        split: which split to draw.
        progress: told what is drawn, how much of it is done, and of how much.

    Raises:
        ConfigError: an unknown key, or a value that is no whole number.
        DataError: no such split, or none named.
    """
    from mmcl.data.shapes import load_shapes

    values = _parse(base)
    chosen = choose_split(built_in_splits(), split, data=base)
    options = {key: values[key] for key in ("seed", "image_size") if key in values}
    name = f"{base}:{chosen}"
    tell = None if progress is None else partial(progress, f"drawing {name}")
    dataset = load_shapes(chosen, size=values.get(chosen), progress=tell, **options)
    dataset.name = name
    return dataset


def _parse(base: str) -> dict[str, int]:
    known = (*built_in_splits(), "seed", "image_size")
    values = {}
    for key, value in parse_qsl(base.partition("?")[2], keep_blank_values=True):
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{base}: unknown key {key!r}; known are {', '.join(known)}{hint}")
        if not value.isdecimal():
            raise ConfigError(f"{base}: {key}={value!r} is no whole number")
        values[key] = int(value)
    return values
