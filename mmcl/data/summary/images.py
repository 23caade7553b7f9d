"""Images in figures: formats, sizes, shapes, and what cannot be read; from the table that `scan_images` makes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.summary.distributions import Spread, spread_of

TINY_PIXELS = 32  # of the shorter side
BLANK_DEVIATION = 2.0  # of the grey pixels, in [0, 255]
KEPT_PROBLEMS = 5


@dataclass(frozen=True)
class ImageFacts:
    """The images that were looked at.

    Attributes:
        looked_at: images.
        unreadable: how many cannot be decoded; ``problems``: why, the most frequent reasons with their counts.
        formats, modes: file format, and mode as stored, with counts.
        width, height, shorter_side: pixels as stored, of images whose size is known.
        aspect: width / height.
        bytes: of the encoded image.
        animated: images of several frames. rotated: with an EXIF orientation to undo.
        tiny: with a shorter side under 32 pixels. blank: of (almost) one grey.
        repeated: images whose bytes are those of one before them.
    """

    looked_at: int
    unreadable: int
    problems: dict[str, int]
    formats: dict[str, int]
    modes: dict[str, int]
    width: Spread
    height: Spread
    shorter_side: Spread
    aspect: Spread
    bytes: Spread
    animated: int
    rotated: int
    tiny: int
    blank: int
    repeated: int


def image_facts(scanned: pa.Table) -> ImageFacts:
    """Sum up a table of ``mmcl.data.scan.images.scan_images``; one of no rows gives zeros."""
    sized = scanned.filter(pc.and_(pc.is_valid(scanned["width"]), pc.is_valid(scanned["height"])))
    width, height = (sized[name].to_numpy().astype(np.int64) for name in ("width", "height"))
    shorter = np.minimum(width, height)
    digests = scanned["digest"].drop_null()
    return ImageFacts(
        looked_at=scanned.num_rows,
        unreadable=scanned.num_rows - scanned["problem"].null_count,
        problems=_counts(scanned["problem"], KEPT_PROBLEMS),
        formats=_counts(scanned["format"]),
        modes=_counts(scanned["mode"]),
        width=spread_of(width),
        height=spread_of(height),
        shorter_side=spread_of(shorter),
        aspect=spread_of(np.round(width / np.maximum(height, 1), 4)),
        bytes=spread_of(scanned["num_bytes"].drop_null().to_numpy()),
        animated=_true(pc.greater(scanned["frames"], 1)),
        rotated=_true(scanned["rotated"]),
        tiny=int((shorter < TINY_PIXELS).sum()),
        blank=_true(pc.less(scanned["std"], BLANK_DEVIATION)),
        repeated=len(digests) - pc.count_distinct(digests).as_py(),
    )


def _true(values: pa.ChunkedArray) -> int:
    return pc.sum(values).as_py() or 0


def _counts(column: pa.ChunkedArray, kept: int | None = None) -> dict[str, int]:
    counted = pc.value_counts(column.drop_null())
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist())
    return dict(Counter(dict(pairs)).most_common(kept))
