"""Captions as a step takes them: the order of changes, how often each comes, and the list of all that can come."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from mmcl.config import CaptionsSection
from mmcl.data.augment.captions import (
    MOST_VARIANTS,
    CaptionSampler,
    captions_are_finite,
    is_plain,
    possible_captions,
    sample_captions,
)
from mmcl.data.augment.seeds import WORDS, row_seed, row_seeds
from mmcl.data.augment.synonyms import Synonyms
from mmcl.data.augment.words import drop_words
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.shapes import load_shapes
from mmcl.errors import ConfigError, DataError

NUMBER = 4000
SEEDS = row_seeds(0, 1, range(NUMBER))
TAGS = ["x", "y", "z"]
OTHERS = {"de": "ein Hund", "fr": ["un chien", " ", "le chien"], "es": None}


def drawn(section: CaptionsSection, texts: list[str], tags: list[str] | None = None, **more: object) -> list[str]:
    """``NUMBER`` captions of one row."""
    if "translations" in more:
        more["translations"] = [more["translations"]] * NUMBER
    return sample_captions([texts] * NUMBER, [tags] * NUMBER, section, seeds=SEEDS, **more)


def near(count: int, chance: float) -> bool:
    return abs(count / NUMBER - chance) <= 5 * math.sqrt(chance * (1 - chance) / NUMBER) + 1e-9


def test_everything_comes_in_order() -> None:
    section = CaptionsSection(
        sample="first", translations={"en2": 1.0}, sentence_crop=1.0, synonyms="table.csv", synonyms_probability=1.0,
        word_swap=1.0, word_swap_with="next", max_words=3, templates=["A photo of {text}"], tags_probability=1.0,
        tags_most=1, lowercase=True,
    )  # fmt: skip
    captions = drawn(
        section, ["not this"], TAGS, translations={"en2": "Cat one two three."}, synonyms=Synonyms({"cat": ["DOG"]})
    )
    assert set(captions) == {"a photo of one two three., x"}


def test_a_row_is_varied_alike_beside_any_others() -> None:
    section = CaptionsSection(word_dropout=0.3, word_swap=0.3, tags_probability=0.5, tags_drop=0.4, tags_shuffle=True)
    texts = ["one two three four five", "six seven"]
    together = drawn(section, texts, TAGS)
    assert [sample_captions([texts], [TAGS], section, seeds=[seed])[0] for seed in SEEDS[:50]] == together[:50]
    assert len(set(together)) > 200
    # Another epoch's seed, another caption.
    other = sample_captions([texts] * 50, [TAGS] * 50, section, seeds=row_seeds(0, 2, range(50)))
    assert other != together[:50]


def test_words_are_changed_by_the_rows_own_lots() -> None:
    text = "one two three four five"
    captions = drawn(CaptionsSection(word_dropout=0.3), [text])
    assert captions[:100] == [drop_words(text, 0.3, Random(row_seed(0, WORDS, int(seed)))) for seed in SEEDS[:100]]


@pytest.mark.parametrize(
    ("keys", "shares"),
    [
        ({"sentence_crop": 0.6}, {"A. B. C.": 0.4, "A.": 0.2, "B.": 0.2, "C.": 0.2}),
        ({"sentence_crop": 1.0, "sentences": 2}, {"A. B.": 0.5, "B. C.": 0.5}),
        ({"templates": ["1 {text}", "2 {text}"], "templates_probability": 0.8},
         {"A. B. C.": 0.2, "1 A. B. C.": 0.4, "2 A. B. C.": 0.4}),
        ({"translations": {"de": 0.3, "fr": 0.4}},
         {"A. B. C.": 0.3, "ein Hund": 0.3, "un chien": 0.2, "le chien": 0.2}),
        ({"translations": {"es": 0.9, "de": 0.1}}, {"A. B. C.": 0.9, "ein Hund": 0.1}),
        ({"tags_probability": 1.0, "tags_drop": 0.5, "tags_most": 1},  # the first of those that are left
         {"A. B. C., x": 1 / 2 + 1 / 24, "A. B. C., y": 1 / 4 + 1 / 24, "A. B. C., z": 1 / 8 + 1 / 24}),
        ({"tags_probability": 0.5, "tags_shuffle": True, "tags_most": 1},
         {"A. B. C.": 1 / 2, "A. B. C., x": 1 / 6, "A. B. C., y": 1 / 6, "A. B. C., z": 1 / 6}),
    ],
    ids=["sentence", "sentences", "templates", "translations", "missing", "tags_drop", "tags_shuffle"],
)  # fmt: skip
def test_changes_come_as_often_as_asked(keys: dict, shares: dict[str, float]) -> None:
    captions = drawn(CaptionsSection(**keys), ["A. B. C."], TAGS, translations=OTHERS)
    assert set(captions) == set(shares)
    for caption, share in shares.items():
        assert near(captions.count(caption), share), caption


def test_shuffled_tags_come_in_every_order() -> None:
    captions = drawn(CaptionsSection(tags_probability=1.0, tags_shuffle=True), ["a"], TAGS)
    assert len(set(captions)) == 6
    assert all(near(captions.count(caption), 1 / 6) for caption in set(captions))


FINITE = [
    {},
    {"sample": "first"},
    {"lowercase": True},
    {"max_words": 2},
    {"sentence_crop": 0.5},
    {"sentence_crop": 1.0, "sentences": 2},
    {"templates": ["1 {text}", "2 {text}"]},
    {"templates": ["1 {text}"], "templates_probability": 0.5},
    {"templates": ["1 {text}"], "templates_probability": 0.0},
    {"tags_probability": 0.5, "tags_most": 2},
    {"tags_probability": 1.0},
    {"tags_shuffle": True, "tags_drop": 0.5},  # of no tags
    {"token_dropout": 0.5},  # which leaves captions as they are
    {"translations": {"de": 0.5, "fr": 0.3}},
    {"translations": {"de": 0.5, "fr": 0.5}},
    {"translations": {"de": 0.5, "es": 0.5}},
    {"translations": {"de": 0.0}},
    {"translations": {"de": 0.4}, "sentence_crop": 0.5, "max_words": 3, "templates": ["It is {text}"],
     "templates_probability": 0.5, "tags_probability": 0.5, "lowercase": True},
]  # fmt: skip


@pytest.mark.parametrize("keys", FINITE, ids=str)
def test_possible_captions_are_those_that_come(keys: dict) -> None:
    section, texts = CaptionsSection(**keys), ["One is. Two are. Three.", "alone"]
    possible = possible_captions(texts, TAGS, section, OTHERS)
    assert captions_are_finite(section)
    assert len(set(possible)) == len(possible)
    assert set(drawn(section, texts, TAGS, translations=OTHERS)) == set(possible)
    assert all(caption.strip() for caption in possible)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"word_dropout": 0.1}, "data.captions.word_dropout"),
        ({"word_swap": 0.1}, "data.captions.word_swap"),
        ({"synonyms": "a.csv"}, "data.captions.synonyms"),
        ({"tags_probability": 0.5, "tags_shuffle": True}, "data.captions.tags_shuffle"),
        ({"tags_probability": 0.5, "tags_drop": 0.1}, "data.captions.tags_drop"),
        ({"templates": [f"{n} {{text}}" for n in range(MOST_VARIANTS + 1)]}, "data.captions.templates"),
    ],
)
def test_random_changes_have_no_list(keys: dict, named: str) -> None:
    section = CaptionsSection(**keys)
    assert not captions_are_finite(section)
    with pytest.raises(ConfigError, match=f"{named} vary captions at random"):
        possible_captions(["a"], TAGS, section)


def test_what_is_plain() -> None:
    assert is_plain(CaptionsSection(sample="first", tags_probability=0.5, token_dropout=0.5))
    assert not any(is_plain(CaptionsSection(**keys)) for keys in FINITE[2:10])


@pytest.mark.parametrize("caption", ["word", "a b", "Ünïcödé. 狗在跑。", "{text} {braces}"])
def test_no_change_leaves_a_caption_empty(caption: str) -> None:
    section = CaptionsSection(
        word_dropout=1.0, word_swap=1.0, max_words=1, sentence_crop=1.0, tags_drop=1.0, tags_probability=0.5,
        templates=["{text}"],
    )  # fmt: skip
    captions = drawn(section, [caption], TAGS)
    assert all(made.partition(",")[0].strip() for made in captions)
    assert any(made.endswith(", y") for made in captions)  # one tag stays too


# -- of a data set ---------------------------------------------------------------------------------------------------


def dataset(**columns: pa.Array) -> ImageTextDataset:
    shapes = load_shapes("train", size=3, image_size=32)
    table = pa.table({"texts": pa.array([["a"], ["b", "c"], ["d"]]), **columns})
    return ImageTextDataset(shapes.images, table, name="three")


STRUCT = pa.array([{"de": "A", "fr": ["1", "2"]}, {"de": None, "fr": None}, {"de": "D", "fr": []}])


def test_a_sampler_reads_struct_and_plain_columns() -> None:
    data = dataset(i18n=STRUCT, es=pa.array([None, "B", ""]).dictionary_encode(), tags=pa.array([["t"], None, ["u"]]))
    section = CaptionsSection(translations={"i18n.de": 0.3, "i18n.fr": 0.3, "es": 0.4}, tags_probability=0.5)
    sampler = CaptionSampler(data, section)
    seen = [set() for _ in range(3)]
    for epoch in range(300):
        for row, caption in zip((2, 0, 1), sampler([2, 0, 1], row_seeds(0, epoch, [2, 0, 1]))):
            seen[row].add(caption)
    bare = [{"A", "1", "2", "a"}, {"b", "c", "B"}, {"D", "d"}]
    assert seen == [bare[0] | {f"{t}, t" for t in bare[0]}, bare[1], bare[2] | {f"{t}, u" for t in bare[2]}]
    assert set(sampler.possible_captions()) == set().union(*seen)
    assert sampler([], []) == []


def test_a_sampler_reads_its_table_of_synonyms(tmp_path: Path) -> None:
    file = tmp_path / "words.csv"
    file.write_text("a,an a\n")
    section = CaptionsSection(synonyms=str(file), synonyms_probability=1.0)
    assert CaptionSampler(dataset(), section)([0, 2], [5, 6]) == ["an a", "d"]


@pytest.mark.parametrize(
    ("column", "error", "told"),
    [
        ("i18n.es", ConfigError, "three has no column 'i18n.es'; 'i18n' has de, fr"),
        ("i18n.de.x", ConfigError, "'de' has no fields|'i18n' has no fields"),
        ("de", ConfigError, "three has no column 'de'; it has texts, i18n"),
        ("i18n", DataError, "column 'i18n' of three holds struct<.*; wanted captions or lists of them"),
    ],
)
def test_columns_that_are_not_there_are_told(column: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        CaptionSampler(dataset(i18n=STRUCT), CaptionsSection(translations={column: 0.5}))
