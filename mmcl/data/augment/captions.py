"""Which caption a training step takes of a row, and how it is varied.

In this order: one of the row's captions is taken; a translation may stand in for it; it is cut to some of its
sentences; words are replaced by synonyms, left out and swapped; it is cut to ``max_words``; a template is put round it;
tags are appended; it is set in lower case. Tokens are left out later, by ``mmcl.data.augment.tokens``. No change ever
leaves a caption empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.config import CaptionsSection
from mmcl.data.augment.seeds import CAPTION, TAGS, WORDS, row_seeds
from mmcl.data.augment.synonyms import Synonyms, read_synonyms
from mmcl.data.augment.words import crop_sentences, drop_words, limit_words, pick, sentence_windows, swap_words
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError, DataError

MOST_VARIANTS = 100  # of a caption, up to which a cache is worth its room

# A row's captions in other languages: column -> one caption, several, or none.
Translations = Mapping[str, "str | Sequence[str] | None"]


def with_tags(caption: str, tags: Sequence[str]) -> str:
    """A caption with its row's tags appended: ``"red apple, apple, fruit, red"``."""
    return ", ".join([caption, *tags])


def sample_captions(
    texts: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str] | None],
    section: CaptionsSection,
    *,
    seeds: Sequence[int] | np.ndarray,
    translations: Sequence[Translations] | None = None,
    synonyms: Synonyms | None = None,
) -> list[str]:
    """One of each row's captions, varied as the section says; see the module for the order.

    Args:
        texts: the rows' captions, at least one each.
        tags: their tags, or None.
        section: which caption, and how it is varied.
        seeds: (n,); the same seed gives the same caption.
        translations: of the rows, where the section asks for them.
        synonyms: the table that the section names, where it names one.
    """
    picks, chances = row_seeds(0, CAPTION, seeds).tolist(), row_seeds(0, TAGS, seeds).tolist()
    first, limit = section.sample == "first", section.tags_probability * 2**63
    captions = [row[0] if first else row[pick % len(row)] for row, pick in zip(texts, picks)]
    if is_plain(section):
        return [
            with_tags(caption, row_tags) if row_tags and chance < limit else caption
            for caption, row_tags, chance in zip(captions, tags, chances)
        ]
    others: Sequence[Translations] = translations or [{}] * len(captions)
    varied = []
    for row, seed in enumerate(row_seeds(0, WORDS, seeds).tolist()):
        random = Random(seed)
        caption = _vary(captions[row], others[row], section, synonyms, random)
        row_tags = tags[row]
        if row_tags and chances[row] < limit:
            caption = with_tags(caption, _some_tags(row_tags, section, random))
        varied.append(caption.lower() if section.lowercase else caption)
    return varied


def _vary(
    caption: str, others: Translations, section: CaptionsSection, synonyms: Synonyms | None, random: Random
) -> str:
    """All that is done to a caption itself, tags and lower case apart."""
    if section.translations:
        caption = _translated(caption, others, section.translations, random)
    if section.sentence_crop and random.random() < section.sentence_crop:
        caption = crop_sentences(caption, section.sentences, random)
    if synonyms is not None:
        caption = synonyms.replace(caption, section.synonyms_probability, random)
    if section.word_dropout:
        caption = drop_words(caption, section.word_dropout, random)
    if section.word_swap:
        caption = swap_words(caption, section.word_swap, random, adjacent=section.word_swap_with == "next")
    if section.max_words is not None:
        caption = limit_words(caption, section.max_words)
    if section.templates and random.random() < section.templates_probability:
        caption = section.templates[pick(len(section.templates), random)].replace("{text}", caption)
    return caption


def _translated(caption: str, others: Translations, chances: Mapping[str, float], random: Random) -> str:
    lot = random.random()
    for column, chance in chances.items():
        if lot < chance:
            there = _given(others.get(column))
            return there[pick(len(there), random)] if there else caption
        lot -= chance
    return caption


def _given(translation: str | Sequence[str] | None) -> list[str]:
    """The captions of a cell: none where it is null or blank."""
    cell = [translation] if isinstance(translation, str) else translation or []
    return [caption for caption in cell if caption and caption.strip()]


def _some_tags(tags: Sequence[str], section: CaptionsSection, random: Random) -> list[str]:
    """The tags to append; all but the last one may be left out, so that something is appended."""
    kept = list(tags)
    if section.tags_drop:
        kept = [tag for tag in kept if random.random() >= section.tags_drop] or [tags[pick(len(tags), random)]]
    if section.tags_shuffle:
        kept = [tag for _, tag in sorted(((random.random(), tag) for tag in kept), key=lambda pair: pair[0])]
    return kept[: section.tags_most]


# -- which captions can come -----------------------------------------------------------------------------------------


def is_plain(section: CaptionsSection) -> bool:
    """Whether captions are taken as they are, with all tags or none: the quick way."""
    changes = (section.translations, section.sentence_crop, section.synonyms, section.word_dropout, section.word_swap)
    tags = (section.tags_drop, section.tags_shuffle, section.tags_most)
    return not any((*changes, *tags, section.max_words, section.templates, section.lowercase))


def random_keys(section: CaptionsSection) -> list[str]:
    """The keys that vary captions in more ways than can be listed."""
    shuffles = section.tags_probability > 0
    keys = {
        "synonyms": bool(section.synonyms) and section.synonyms_probability > 0,
        "word_dropout": section.word_dropout > 0,
        "word_swap": section.word_swap > 0,
        "tags_drop": shuffles and section.tags_drop > 0,
        "tags_shuffle": shuffles and section.tags_shuffle,
        "templates": len(section.templates) > MOST_VARIANTS,
    }
    return [f"data.captions.{key}" for key, on in keys.items() if on]


def captions_are_finite(section: CaptionsSection) -> bool:
    """Whether a row's possible captions are so few that what is made of all of them can be kept.

    Their tokens, that is; their features only where no token is dropped (``token_dropout``).
    """
    return not random_keys(section)


def possible_captions(
    texts: Sequence[str],
    tags: Sequence[str] | None,
    section: CaptionsSection,
    translations: Translations | None = None,
) -> list[str]:
    """Everything ``sample_captions`` can give for a row: what a cache of text features must hold.

    Raises:
        ConfigError: the section varies captions in more ways than can be listed; see ``captions_are_finite``.
    """
    if keys := random_keys(section):
        raise ConfigError(f"{', '.join(keys)} vary captions at random: there is no list of all that may come")
    captions = list(texts[:1] if section.sample == "first" else texts)
    if section.translations:
        captions = _with_translations(captions, translations or {}, section.translations)
    if section.sentence_crop:
        cropped = [window for caption in captions for window in sentence_windows(caption, section.sentences)]
        captions = cropped if section.sentence_crop >= 1 else [*captions, *cropped]
    if section.max_words is not None:
        captions = [limit_words(caption, section.max_words) for caption in captions]
    if section.templates and section.templates_probability > 0:
        filled = [template.replace("{text}", caption) for template in section.templates for caption in captions]
        captions = filled if section.templates_probability >= 1 else [*captions, *filled]
    if tags and section.tags_probability > 0:
        tagged = [with_tags(caption, tags[: section.tags_most]) for caption in captions]
        captions = tagged if section.tags_probability >= 1 else [*captions, *tagged]
    if section.lowercase:
        captions = [caption.lower() for caption in captions]
    return list(dict.fromkeys(captions))


def _with_translations(captions: list[str], others: Translations, chances: Mapping[str, float]) -> list[str]:
    wanted = [column for column, chance in chances.items() if chance > 0]
    found = [caption for column in wanted for caption in _given(others.get(column))]
    own = sum(chances.values()) < 1 or any(not _given(others.get(column)) for column in wanted)
    return [*captions, *found] if own else found


# -- of a data set ---------------------------------------------------------------------------------------------------


class CaptionSampler:
    """The captions that a data set's rows bring under their seeds.

    Args:
        dataset: the rows.
        section: ``data.captions``.

    Raises:
        ConfigError: a column of ``translations`` or the table of synonyms is missing.
        DataError: such a column holds no text, or the table has a bad line.
    """

    def __init__(self, dataset: ImageTextDataset, section: CaptionsSection) -> None:
        self.section = section
        self._texts = dataset.table["texts"]
        has_tags = section.tags_probability > 0 and "tags" in dataset.table.column_names
        self._tags = dataset.table["tags"] if has_tags else None
        self._translations = {name: _text_column(dataset, name) for name in section.translations}
        self._synonyms = None if section.synonyms is None else read_synonyms(section.synonyms)

    def __call__(self, rows: Sequence[int], seeds: Sequence[int] | np.ndarray) -> list[str]:
        """The caption of each row, by its seed."""
        index = pa.array(rows, pa.int64())
        texts = self._texts.take(index).to_pylist()
        tags: list[Any] = [None] * len(texts) if self._tags is None else self._tags.take(index).to_pylist()
        others = None
        if self._translations:
            columns = {name: column.take(index).to_pylist() for name, column in self._translations.items()}
            others = [dict(zip(columns, cells)) for cells in zip(*columns.values())]
        return sample_captions(texts, tags, self.section, seeds=seeds, translations=others, synonyms=self._synonyms)

    def possible_captions(self) -> Iterator[str]:
        """Everything that any row may bring, repetitions included; see the function of this name."""
        names = list(self._translations)
        tags = [None] * len(self._texts) if self._tags is None else self._tags.to_pylist()
        cells = [column.to_pylist() for column in self._translations.values()]
        for texts, row_tags, *others in zip(self._texts.to_pylist(), tags, *cells):
            yield from possible_captions(texts, row_tags, self.section, dict(zip(names, others)))


def _text_column(dataset: ImageTextDataset, name: str) -> pa.ChunkedArray:
    """A column, or by dots a field of a struct column, that holds captions or lists of them."""
    head, *fields = [name] if name in dataset.table.column_names else name.split(".")
    where = f"data.captions.translations: {dataset.name} has no column {name!r}"
    if head not in dataset.table.column_names:
        raise ConfigError(f"{where}; it has {', '.join(dataset.table.column_names)}")
    column = dataset.table[head]
    for field in fields:
        names = [inner.name for inner in column.type] if pa.types.is_struct(column.type) else []
        if field not in names:
            raise ConfigError(f"{where}; {head!r} has {', '.join(names) or 'no fields'}")
        column = pc.struct_field(column, field)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    kind = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise DataError(
            f"data.captions.translations: column {name!r} of {dataset.name} holds {column.type}; wanted captions or "
            f"lists of them"
        )
    return column
