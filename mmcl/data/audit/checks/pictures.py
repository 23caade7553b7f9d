"""Images that cannot be read, or show next to nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow.compute as pc

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found

# How Pillow and libjpeg-turbo word a file that ends too early.
_CUT = re.compile(
    r"truncat|incomplete|premature|ends inside|broken data stream|unrecognized data stream|not enough", re.I
)
_TOO_LARGE = "too many pixels"


def _problems(audited: Audited) -> Iterator[tuple[int, str, str]]:
    """(row, kind, problem) of images that cannot be read."""
    column = audited.facts["problem"]
    rows = np.flatnonzero(pc.is_valid(column).to_numpy())
    known = audited.facts.select(["problem", "width"]).take(rows)
    for row, problem, width in zip(rows, known["problem"].to_pylist(), known["width"].to_pylist()):
        # A file that was cut still has its head: it says how large the image was to be.
        cut = width is not None and _CUT.search(problem)
        yield int(row), "huge" if problem.startswith(_TOO_LARGE) else "truncated" if cut else "unreadable", problem


def _of_kind(kind: str) -> object:
    def find(audited: Audited) -> Iterator[Found]:
        found = [(row, problem) for row, is_kind, problem in _problems(audited) if is_kind == kind]
        yield Found(np.array([row for row, _ in found], dtype=np.int64), [problem for _, problem in found])

    return find


def _sides(audited: Audited) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shorter and longer side of readable images, and their rows."""
    width, height = audited.numbers("width", missing=0), audited.numbers("height", missing=0)
    rows = np.flatnonzero((width > 0) & (height > 0) & pc.is_null(audited.facts["problem"]).to_numpy())
    return np.minimum(width, height)[rows], np.maximum(width, height)[rows], rows


def _sized(audited: Audited, rows: np.ndarray) -> list[str]:
    taken = audited.facts.select(["width", "height"]).take(rows).to_pylist()
    return [f"{size['width']} x {size['height']} pixels" for size in taken]


def _tiny(audited: Audited) -> Iterator[Found]:
    _, longer, rows = _sides(audited)
    rows = rows[longer < audited.limits.min_pixels]
    yield Found(rows, _sized(audited, rows))


def _extreme_aspect(audited: Audited) -> Iterator[Found]:
    shorter, longer, rows = _sides(audited)
    rows = rows[longer > audited.limits.max_aspect * shorter]
    yield Found(rows, _sized(audited, rows))


def _huge(audited: Audited) -> Iterator[Found]:
    yield from _of_kind("huge")(audited)
    shorter, longer, rows = _sides(audited)
    rows = rows[shorter.astype(np.float64) * longer > 1e6 * audited.limits.max_megapixels]
    yield Found(rows, _sized(audited, rows), severity="warning", action="look")


def _blank(audited: Audited) -> Iterator[Found]:
    std, mean = audited.numbers("std", missing=np.inf), audited.numbers("mean", missing=0)
    rows = np.flatnonzero(std < audited.limits.blank_std)
    yield Found(rows, [f"grey level {mean[row]:.0f} of 255, standard deviation {std[row]:.2f}" for row in rows])


UNREADABLE = Check(
    "unreadable_image", "error", "drop",
    "Images that are missing, empty or damaged, or no images at all. A reader skips them, row by row, in every epoch.",
    _of_kind("unreadable"), "pixels",
)  # fmt: skip

TRUNCATED = Check(
    "truncated_image", "error", "drop",
    "Image files that begin well and end too early, as after a broken download.",
    _of_kind("truncated"), "pixels",
)  # fmt: skip

HUGE = Check(
    "huge_image", "error", "drop",
    "Images with more pixels than Pillow dares to decode (a decompression bomb fills the memory with a small file), "
    "or, as a warning, with more megapixels than the threshold max_megapixels: they slow the loader down.",
    _huge, "pixels",
)  # fmt: skip

TINY = Check(
    "tiny_image", "warning", "look",
    "Images whose longer side has fewer pixels than the threshold min_pixels: placeholders, tracking pixels, icons.",
    _tiny, "pixels",
)  # fmt: skip

EXTREME_ASPECT = Check(
    "extreme_aspect", "warning", "look",
    "Images many times as long as wide (threshold max_aspect), such as banners and lines: a square crop shows a part.",
    _extreme_aspect, "pixels",
)  # fmt: skip

BLANK = Check(
    "blank_image", "warning", "look",
    "Images of next to one grey level (threshold blank_std, the standard deviation of levels 0-255). Camera noise "
    "alone has 2 or more; the plainest of 3,664 emoji has 4.",
    _blank, "pixels",
)  # fmt: skip
