"""`make_shapes`: the built-in scenes, drawn once and written as a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.making.card import write_card
from mmcl.data.shapes.dataset import DEFAULT_SIZES, load_shapes
from mmcl.data.writing import write_dataset


def make_shapes(
    out: Path,
    *,
    train: int | None = None,
    image_size: int = 64,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Draw the built-in scenes and write them as a folder of PNG files with all their columns, and a card.

    Args:
        out: the folder to write (see ``write_dataset``).
        train: scenes of the split train; 32,000 by default. The other splits have their usual 500.
        image_size: side of the images in pixels, at least 16.
        seed: which scenes; the same seed gives the same.
        workers: processes that write.
        progress: told what is done, how much of it, and of how much.

    Returns:
        What ``write_dataset`` returns, and the path ``card``.

    Raises:
        DataError: a size or image_size that cannot be (see ``load_shapes``).
        ConfigError: ``out`` holds something else.
    """
    splits: dict[str | None, ImageTextDataset] = {}
    for split in DEFAULT_SIZES:
        tell = None if progress is None else partial(progress, f"drawing {split}")
        size = train if split == "train" else None
        splits[split] = load_shapes(split, size=size, seed=seed, image_size=image_size, progress=tell)
    counts = write_dataset(splits, Path(out), format="folder", workers=workers, progress=progress)
    options = f"--train {len(splits['train'])} --image-size {image_size} --seed {seed}"
    command = f"mmcl data make shapes -o OUT {options}"
    card = write_card(Path(counts["out"]), "shapes", versions={}, command=command, progress=progress)
    return {**counts, "card": str(card)}
