"""`mmcl data audit` of captions, ids, groups and leaks: seconds and memory as rows grow, each in a fresh process.

Images have no part in it: their cost is that of decoding (see the rows of ``decode``), and their facts lie in files.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

from measuring import Row, Settings, bounded, compared, say
from peak_memory import peak_memory

ROWS = (10_000, 100_000, 1_000_000)
QUICK_ROWS = (500, 1_000, 2_000)
MOST_BYTES = 1e9  # for 100,000 captions; memory beyond the data set itself
MOST_GROWTH = 12.0  # of memory, for ten times the rows
TEST_SHARE = 10  # one row in so many is of the test split
WORDS = (
    "a", "the", "red", "green", "blue", "old", "young", "small", "dog", "cat", "man", "woman", "child", "boat", "river",
    "bridge", "train", "street", "house", "runs", "sits", "stands", "under", "over", "near", "with", "two", "three",
)  # fmt: skip
SHARED = ("image not available", "a dog runs", "untitled")


def splits_of(rows: int) -> dict[str, object]:
    """Training and test rows with captions, ids and groups; some captions and groups are of both."""
    import pyarrow as pa

    from mmcl.data.dataset import ImageTextDataset
    from mmcl.data.images.files import FileImages

    rng, made = random.Random(0), {}
    for split, number in (("train", rows - rows // TEST_SHARE), ("test", rows // TEST_SHARE)):
        texts = [
            [rng.choice(SHARED) if rng.random() < 0.01 else " ".join(rng.choices(WORDS, k=rng.randint(5, 15)))]
            for _ in range(number)
        ]
        names = pa.array([f"{split}/{row:09d}.jpg" for row in range(number)])
        groups = [f"g{rng.randrange(rows)}" for _ in range(number)]
        table = pa.table({"id": names, "texts": texts, "group": groups})
        made[split] = ImageTextDataset(FileImages("images", names), table, name=f"made:{split}")
    return made


def _audit(splits: dict[str, object]) -> object:
    from mmcl.data.audit.auditing import audit
    from mmcl.data.audit.checks import CHECKS

    return audit(splits, checks=[check.name for check in CHECKS.values() if check.need == "rows"])


def one_audit(settings: Settings, *, rows: int) -> Callable[[], object]:
    """What a fresh process measures: the audit of so many rows, after that of a few.

    Args:
        settings: of this run.
        rows: how many.
    """
    _audit(splits_of(100))
    splits = splits_of(rows)
    return lambda: _audit(splits)


def audit(settings: Settings) -> Iterator[Row]:
    """The audit without images, of 10,000, 100,000 and a million captions: time, and memory beyond the data."""
    sizes = QUICK_ROWS if settings.quick else ROWS
    _audit(splits_of(100))  # a first call that does not count
    seconds, peaks, findings = {}, {}, {}
    for rows in sizes:
        say(f"audit of {rows:,} captions ...")
        splits = splits_of(rows)
        start = time.perf_counter()
        findings[rows] = _audit(splits).findings.num_rows
        seconds[rows] = time.perf_counter() - start
        del splits
        peaks[rows] = peak_memory("data_audit", "one_audit", settings, rows=rows)
        what = f"audit of {rows:,} captions"
        yield Row("audit", f"{what}: time", "", seconds[rows], unit="s", details={"findings": findings[rows]})
        if rows <= ROWS[1]:
            yield bounded("audit", f"{what}: peak memory", peaks[rows], "", unit="bytes", at_most=MOST_BYTES)
    for fewer, more in pairwise(sizes):
        bound = None if settings.quick else MOST_GROWTH
        yield compared(
            "audit", f"audit: peak memory, {more:,} captions against {fewer:,}", peaks[more], "fewer rows",
            peaks[fewer], unit="bytes", at_most=bound,
        )  # fmt: skip
        yield compared(
            "audit", f"audit: time, {more:,} captions against {fewer:,}", seconds[more], "fewer rows", seconds[fewer],
            unit="s",
        )  # fmt: skip
