"""`inspect_splits`: summaries of all splits, what they share, their image scans and hints, in one go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.scan.images import scan_images
from mmcl.data.summary.hints import Hint, hints
from mmcl.data.summary.overlap import SplitOverlap, split_overlaps
from mmcl.data.summary.summarising import Summary, sample_rows, summarise
from mmcl.data.vectors import VectorImages

WHOLE = "all"  # what a data set without splits is called
SAMPLED_IMAGES = 1_000


@dataclass(frozen=True)
class Inspection:
    """What was measured of a data set.

    Attributes:
        data: the data set as a person names it.
        summaries: split -> its summary; ``all`` where there are no splits.
        overlaps: of every two splits.
        hints: what will hurt training.
        scans: split -> the facts of the images looked at; empty where none were.
    """

    data: str
    summaries: dict[str, Summary]
    overlaps: list[SplitOverlap]
    hints: list[Hint]
    scans: dict[str, pa.Table]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ``data``; ``splits``: name -> the fields of ``Summary``; ``overlaps``; ``hints``."""
        return {
            "data": self.data,
            "splits": {split: summary.as_dict() for split, summary in self.summaries.items()},
            "overlaps": [dataclasses.asdict(overlap) for overlap in self.overlaps],
            "hints": [dataclasses.asdict(hint) for hint in self.hints],
        }


def inspect_splits(
    splits: Mapping[str | None, ImageTextDataset],
    *,
    data: str,
    whole: bool = True,
    sample_images: int | None = SAMPLED_IMAGES,
    seed: int = 0,
    workers: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Inspection:
    """Measure every split.

    Args:
        splits: split -> rows, as ``load_all`` gives them.
        data: the data set's name, for hints.
        whole: whether these are all of its splits.
        sample_images: images of each split that are looked at, drawn by lot; None: all; 0: none. A file of vectors has
            none to look at.
        seed: of the lot.
        workers: processes that decode.
        progress: told what is done, how much of it, and of how much.
    """
    datasets = named_splits(splits)
    scans = {}
    for split, dataset in datasets.items():
        if sample_images != 0 and not isinstance(dataset.images, VectorImages):
            size = len(dataset) if sample_images is None else sample_images
            rows = sample_rows(len(dataset), size, seed=seed)
            # The whole is scanned under its own fingerprint, which the audit shares.
            looked_at = dataset if len(rows) == len(dataset) else dataset.select(rows)
            scans[split] = scan_images(looked_at, workers=workers, progress=progress)
    summaries = {split: summarise(dataset, scans.get(split), seed=seed) for split, dataset in datasets.items()}
    overlaps = split_overlaps(datasets)
    return Inspection(data, summaries, overlaps, hints(summaries, overlaps, data=data, whole=whole), scans)


def named_splits(splits: Mapping[str | None, ImageTextDataset]) -> dict[str, ImageTextDataset]:
    """The same splits; one without a name is ``all``."""
    return {WHOLE if split is None else split: dataset for split, dataset in splits.items()}
