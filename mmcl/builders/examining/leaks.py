"""Validation rows that training rows give away: by group, by a caption of their own, or by an image as like as two
prints of one photograph."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.builders.examining.attempts import quiet
from mmcl.data.audit.auditing import audit
from mmcl.data.audit.report import AuditReport
from mmcl.data.caption_groups import KIND_ROWS
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.splits.training_splits import Splits
from mmcl.doctor.examination.subject import Leak
from mmcl.doctor.examination.verdict import ProgressCallback
from mmcl.errors import DataError

RARE = 3  # training rows that may have a caption which still gives a validation row away
NAMES_SHARE = 0.5  # distinct captions, as a share of all: below, they are names of kinds
MOST_SEEN, MOST_HELD = 4000, 2000  # rows whose images are compared
SECONDS = 10.0  # that reading them may take
TRIED, FEWEST = 16, 64  # rows that say how long reading takes; rows that are compared in any case
SURE_HITS = 3  # rows that must be found before their number is multiplied


def find_leaks(splits: Splits, progress: ProgressCallback | None = None) -> list[Leak]:
    """Validation rows with a group, a rare caption or an image of the training split, by kind.

    Images are compared as ``mmcl data audit`` does, of as many rows as there is time for; where these are a part of the
    training split, the number is an estimate.

    Args:
        splits: with a validation split.
        progress: told what is done, how much of it, and of how much.

    Returns:
        A leak of each kind that was looked for, also where it has no rows.
    """
    train, held = splits.train, splits.validation
    found = [Leak("caption", _rare_captions(train, held)), Leak("group", _small_groups(train, held))]
    return [*found, *_like_images(train, held, progress)]


def _rare_captions(train: ImageTextDataset, held: ImageTextDataset) -> int:
    """Rows with a caption that few training rows have; names that come again and again give nothing away."""
    captions = train.table["texts"].combine_chunks().flatten()
    counted = pc.value_counts(captions)
    if len(counted) < NAMES_SHARE * len(captions):
        return 0
    rare = counted.field("values").filter(pc.less_equal(counted.field("counts"), RARE))
    own = held.table["texts"].combine_chunks()
    known = pc.is_in(own.flatten(), value_set=rare).to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(held)), own.value_lengths().to_numpy(zero_copy_only=False))
    return len(np.unique(owners[known]))


def _small_groups(train: ImageTextDataset, held: ImageTextDataset) -> int:
    """Rows with a stated group that some training rows have, and not so many that it is a kind of thing."""
    if not (train.has("group") and held.has("group")):
        return 0
    counted = pc.value_counts(pc.drop_null(train.table["group"].cast(pa.string())))
    small = counted.field("values").filter(pc.less_equal(counted.field("counts"), KIND_ROWS))
    return int(pc.sum(pc.is_in(held.table["group"].cast(pa.string()), value_set=small)).as_py() or 0)


def _like_images(train: ImageTextDataset, held: ImageTextDataset, progress: ProgressCallback | None) -> list[Leak]:
    seen_rows, held_rows = _affordable(train, held)
    chosen = {"train": _some(train, seen_rows), "validation": _some(held, held_rows)}
    with quiet():
        report = audit(chosen, checks=["leaked_image"], progress=progress)
    if report.not_run:
        return []
    coverage = min(1.0, seen_rows / len(train))
    leaks = []
    for kind, by in (("image", "image"), ("near image", "near image")):
        rows = sum(len(leak.rows) for leak in report.leaks if leak.by == by)
        if coverage < 1 and rows < SURE_HITS:
            rows = 0  # one of a few rows says little of many
        share = rows / max(1, len(chosen["validation"])) / coverage
        leaks.append(Leak(kind, min(len(held), round(share * len(held))), _example(report, kind), coverage < 1))
    return leaks


def _example(report: AuditReport, kind: str) -> str:
    """The files of one such pair."""
    wanted = "nearly" if kind == "near image" else "the same"
    for finding in report.findings.to_pylist():
        if finding["detail"].startswith(wanted) and finding["related"]:
            return f"{finding['related'][0]['place']} like {finding['place']} of the training split"
    return ""


def _affordable(train: ImageTextDataset, held: ImageTextDataset) -> tuple[int, int]:
    """How many rows of each can be read in the time there is."""
    tried, began = min(TRIED, len(train)), time.perf_counter()
    for row in range(tried):
        try:
            train.images.read(row)
        except DataError:
            continue
    each = (time.perf_counter() - began) / max(1, tried)
    rows = max(FEWEST, int(SECONDS / max(each, 1e-6)))
    return min(len(train), MOST_SEEN, rows), min(len(held), MOST_HELD, max(FEWEST, rows // 2))


def _some(dataset: ImageTextDataset, number: int) -> ImageTextDataset:
    if number >= len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.default_rng(0).permutation(len(dataset))[:number]))
