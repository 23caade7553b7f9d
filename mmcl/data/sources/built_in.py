"""``shapes?train=4000&test=200&seed=1&image_size=64``: the built-in data set by its reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.options import check_options, whole_number
from mmcl.errors import DataError


def is_built_in(path: str) -> bool:
    """Whether a reference, without its options, is the built-in data set and no path."""
    return path == "shapes" and not os.path.exists(path)


class OpenedShapes:
    """``shapes``, drawn split by split when it is asked for.

    Args:
        name: the whole reference, without its split.
        options: a size for any split, ``seed`` and ``image_size``.
        progress: told what is drawn, how much of it is done, and of how much.

    Raises:
        ConfigError: an unknown option, or a value that is no whole number.
    """

    def __init__(
        self, name: str, options: Mapping[str, str], *, progress: Callable[[str, int, int], None] | None = None
    ) -> None:
        check_options(name, options, (*self.splits(), "seed", "image_size"))
        self.name, self._progress = name, progress
        self._values = {key: whole_number(name, options, key, 0) for key in options}

    def splits(self) -> list[str]:
        """The splits of ``shapes``."""
        from mmcl.data.shapes.scenes import SPLITS

        return list(SPLITS)

    def dataset(self, split: str | None) -> ImageTextDataset:
        """Draw a split.

        Raises:
            DataError: the split is larger than there are scenes, or its images are too small to show them.
        """
        from mmcl.data.shapes import load_shapes

        name = f"{self.name}:{split}"
        options = {key: self._values[key] for key in ("seed", "image_size") if key in self._values}
        tell = None if self._progress is None else partial(self._progress, f"drawing {name}")
        dataset = load_shapes(split, size=self._values.get(split), progress=tell, **options)
        dataset.name = name
        return dataset

    def whole(self) -> ImageTextDataset:
        """Always raises DataError: a group of scenes stands in one split alone, and its captions tell which."""
        raise DataError(f"{self.name} has splits of its own, which hold different combinations; they stay apart")
