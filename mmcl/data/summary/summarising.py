"""`summarise`: one split of a data set in figures."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.summary.captions import CaptionFacts, RepeatFacts, caption_facts, read_captions, repeat_facts
from mmcl.data.summary.columns import (
    ColumnFacts,
    GroupFacts,
    TagFacts,
    column_facts,
    group_facts,
    tag_facts,
    value_counts,
)
from mmcl.data.summary.distributions import ValueCounts
from mmcl.data.summary.images import ImageFacts, image_facts
from mmcl.data.summary.languages import LOOKED_AT, LanguageGuess, guess_languages

COUNTED_COLUMNS = ("lang", "language", "licence", "license", "sublabel", "source")
_KEPT_REASONS = 10
_KEPT_SKIPPED = 5
_CHANGING = re.compile(r"\S*[/\\.]\w+\S*|'[^']*'|\d+")  # files, quoted values and numbers in a reason


@dataclass(frozen=True)
class Summary:
    """One split in figures.

    Attributes:
        name: the data set's name.
        rows: of it.
        skipped: rows that the reader left out; ``skipped_reasons``: why, the most frequent with their counts (names and
            numbers written as "..."); ``skipped_examples``: [place, reason] of the first.
        captions: their number and lengths.
        repeats: captions on several groups.
        languages: a guess from a sample.
        groups: which rows belong together.
        labels, domains: how often each stands; None where there is no such column.
        tags: None where there are none.
        counted: further columns of few values (lang, licence, sublabel, source ...) counted.
        columns: every column but the captions, with type and share filled.
        images: what a scan found; None where none was made.
    """

    name: str
    rows: int
    skipped: int
    skipped_reasons: dict[str, int]
    skipped_examples: list[tuple[str, str]]
    captions: CaptionFacts
    repeats: RepeatFacts
    languages: LanguageGuess
    groups: GroupFacts
    labels: ValueCounts | None
    domains: ValueCounts | None
    tags: TagFacts | None
    counted: dict[str, ValueCounts]
    columns: list[ColumnFacts]
    images: ImageFacts | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, under the names of the attributes."""
        return dataclasses.asdict(self)


def summarise(dataset: ImageTextDataset, images: pa.Table | None = None, *, seed: int = 0) -> Summary:
    """Measure a split: captions, repeats, languages, groups, labels, columns, and images where they were scanned.

    Args:
        dataset: any; of no rows, all figures are 0.
        images: ``scan_images`` of it, or of a sample of its rows.
        seed: of the sample of captions whose language is guessed.

    Example:
        >>> from mmcl.data import load
        >>> summary = summarise(load("shapes?test=50:test"))
        >>> summary.rows, summary.captions.total, summary.groups.count
        (50, 150, 50)
    """
    captions = read_captions(dataset)
    groups = dataset.group_ids().numpy()
    chosen = sample_rows(len(captions.texts), LOOKED_AT, seed=seed)
    counted = {name: value_counts(dataset, name) for name in COUNTED_COLUMNS}
    return Summary(
        name=dataset.name,
        rows=len(dataset),
        skipped=len(dataset.skipped),
        skipped_reasons=_reasons(dataset),
        skipped_examples=[(row.source, row.reason) for row in dataset.skipped[:_KEPT_SKIPPED]],
        captions=caption_facts(captions),
        repeats=repeat_facts(captions, groups),
        languages=guess_languages(captions.texts.take(pa.array(chosen)).to_pylist()),
        groups=group_facts(dataset, groups),
        labels=value_counts(dataset, "label"),
        domains=value_counts(dataset, "domain"),
        tags=tag_facts(dataset),
        counted={name: values for name, values in counted.items() if values is not None},
        columns=column_facts(dataset),
        images=None if images is None else image_facts(images),
    )


def sample_rows(number: int, size: int, *, seed: int) -> np.ndarray:
    """``size`` of the numbers 0 to ``number`` - 1 by lot, ascending; all of them where there are no more.

    Example:
        >>> sample_rows(3, 5, seed=0).tolist()
        [0, 1, 2]
    """
    if number <= size:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).choice(number, size=size, replace=False))


def _reasons(dataset: ImageTextDataset) -> dict[str, int]:
    counts = Counter(_CHANGING.sub("...", row.reason) for row in dataset.skipped)
    return dict(counts.most_common(_KEPT_REASONS))
