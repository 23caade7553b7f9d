"""Which caption a training step takes of a row, and how it is varied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmcl.config import CaptionsSection
from mmcl.data.augment.seeds import row_seeds


def with_tags(caption: str, tags: Sequence[str]) -> str:
    """A caption with its row's tags appended: ``"red apple, apple, fruit, red"``."""
    return ", ".join([caption, *tags])


def sample_captions(
    texts: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str] | None],
    section: CaptionsSection,
    *,
    seeds: Sequence[int] | np.ndarray,
) -> list[str]:
    """One of each row's captions, with the row's tags appended now and then.

    Args:
        texts: the rows' captions, at least one each.
        tags: their tags, or None.
        section: which caption, and how often the tags.
        seeds: (n,); the same seed gives the same caption.
    """
    picks, chances = row_seeds(0, 1, seeds).tolist(), row_seeds(0, 2, seeds).tolist()
    first, limit = section.sample == "first", section.tags_probability * 2**63
    captions = [row[0] if first else row[pick % len(row)] for row, pick in zip(texts, picks)]
    return [
        with_tags(caption, row_tags) if row_tags and chance < limit else caption
        for caption, row_tags, chance in zip(captions, tags, chances)
    ]


def possible_captions(texts: Sequence[str], tags: Sequence[str] | None, section: CaptionsSection) -> list[str]:
    """Everything ``sample_captions`` can give for a row: what a cache of text features must hold."""
    captions = list(texts[:1] if section.sample == "first" else texts)
    if tags and section.tags_probability > 0:
        tagged = [with_tags(caption, tags) for caption in captions]
        return tagged if section.tags_probability >= 1 else [*captions, *tagged]
    return captions
