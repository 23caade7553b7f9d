"""`load_shapes`: the built-in data set, drawn when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.shapes.captions import caption, sample_foils, sample_negatives, sample_phrasings
from mmcl.data.shapes.drawing import draw
from mmcl.data.shapes.images import ArrayImages
from mmcl.data.shapes.layout import Picture, arrange
from mmcl.data.shapes.scenes import SPLITS, Scene, sample_scene
from mmcl.errors import DataError

DEFAULT_SIZES = {"train": 32_000, "validation": 500, "test": 500, "test_seen": 500}
_COUNT_WORDS = {1: "one", 2: "two", 3: "three"}
_CHUNK = 64  # pictures drawn together: their planes stay in the cache
_ATTEMPTS = 2_000
_COLUMNS = {
    **{name: SCHEMA[name] for name in ("id", "texts", "label", "group", "domain", "tags", "negatives", "foils")},
    "appearance": pa.string(),
}


def _tags(scene: Scene) -> list[str]:
    words = [word for k in scene.kinds for word in (_COUNT_WORDS[k.count], k.size, k.texture, k.colour, k.shape)]
    return list(dict.fromkeys(word for word in [*words, scene.background] if word))


def _row(rng: Random, negatives_rng: Random, scene: Scene, identifier: str) -> dict[str, Any]:
    phrasings = sample_phrasings(rng, scene)
    return {
        "id": identifier,
        "texts": [caption(scene, phrasing) for phrasing in phrasings],
        "label": scene.kinds[0].shape if scene.relation is None else None,
        "group": scene.group,
        "domain": scene.background,
        "tags": _tags(scene),
        "negatives": sample_negatives(negatives_rng, scene, phrasings),
        "foils": sample_foils(rng, scene, phrasings),
        "appearance": scene.appearance,
    }


def _rows(split: str, size: int, seed: int) -> Iterator[tuple[dict[str, Any], Picture]]:
    """Rows and pictures of the split, in order; a gallery holds each group once."""
    held: set[str] = set()
    for index in range(size):
        rng = Random(f"mmcl shapes {seed} {split} {index}")
        scene = sample_scene(rng, split=split)
        if split != "train":
            attempts = 1
            while scene.group in held:
                if attempts == _ATTEMPTS:
                    raise DataError(f"shapes:{split} has too few different scenes for size={size}; ask for {index}")
                scene = sample_scene(rng, split=split)
                attempts += 1
            held.add(scene.group)
        own = Random(f"mmcl shapes negatives {seed} {split} {index}")  # the other columns are what they were without
        yield _row(rng, own, scene, f"{split}-{index:06d}"), arrange(rng, scene)


def _check(split: str, size: int | None, image_size: int) -> int:
    if split not in SPLITS:
        raise DataError(f"shapes has no split {split!r}; it has {', '.join(SPLITS)}")
    if size is not None and size < 1:
        raise DataError(
            f"size of shapes:{split} must be at least 1, got {size}; leave it out for {DEFAULT_SIZES[split]}"
        )
    if image_size < 16:
        raise DataError(f"image_size of shapes must be at least 16 pixels, got {image_size}; 64 shows everything")
    return DEFAULT_SIZES[split] if size is None else size


def load_shapes(
    split: str,
    *,
    size: int | None = None,
    seed: int = 0,
    image_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> ImageTextDataset:
    """Scenes drawn by code, with captions that need shape, colour, texture, count and relation to tell them apart.

    A scene holds one kind of object (one to three of it, small or large) or two kinds in a relation (left, right,
    above, below), on a plain, checkered or speckled background. Each row has three phrasings that say the same;
    scenes whose captions describe them equally share a ``group``.

    The sixteen combinations of ``UNSEEN_COMBINATIONS``, two shapes of every colour and two colours of every shape,
    stand only in ``test``, where every scene holds at least one. The other splits share out the remaining groups by a
    hash of the group (three quarters train, one eighth validation, one eighth test_seen), so no group is in two splits.
    ``validation``, ``test`` and ``test_seen`` hold each group once.

    Columns beside ``texts``: ``label`` is the shape, for zero-shot, and null in scenes of two kinds; ``domain`` is the
    background; ``tags`` are the attribute words; ``foils`` are false captions to judge by (see
    ``captions.sample_foils``) and ``negatives`` are others to train against (``captions.sample_negatives``);
    ``appearance`` is what colours, the number of objects, their size and the background tell by themselves: a reader
    of these alone finds the scene with probability 1 / (rows of equal appearance).

    Args:
        split: "train", "validation", "test" or "test_seen".
        size: number of scenes; by default 32,000 for train and 500 for the others. A smaller size is a prefix of a
            larger one.
        seed: scene i depends on the seed, the split and i alone (in galleries also on the groups before it). The
            combinations and the share-out of groups are the same for every seed.
        image_size: side of the images in pixels, at least 16. Captions are clearly visible from 64 on.
        progress: called with (scenes done, scenes in all), every few dozen.

    Returns:
        The data set; images uint8 (3, image_size, image_size), held in memory.

    Raises:
        DataError: an unknown split, a size below 1 or beyond the number of different scenes, or a tiny image_size.

    Example:
        >>> dataset = load_shapes("test", size=2)
        >>> dataset.texts(1)[0]
        'a plain background with a small striped green heart'
        >>> dataset.images.read(1).shape
        torch.Size([3, 64, 64])
    """
    total = _check(split, size, image_size)
    pixels = np.empty((total, image_size, image_size, 3), dtype=np.uint8)
    rows: list[dict[str, Any]] = []
    scenes = _rows(split, total, seed)
    while chunk := list(islice(scenes, _CHUNK)):
        start = len(rows)
        rows += [row for row, _ in chunk]
        pixels[start : len(rows)] = draw([picture for _, picture in chunk], image_size)
        if progress is not None:
            progress(len(rows), total)
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(_COLUMNS.items())))
    return ImageTextDataset(ArrayImages(pixels, name=f"shapes:{split}"), table, name=f"shapes:{split}")
