"""Changes to words and sentences: what they keep, how often they happen, and that nothing is ever left empty."""

from __future__ import annotations

import math
from random import Random

import pytest

from mmcl.data.augment.words import crop_sentences, drop_words, limit_words, pick, sentence_windows, swap_words

CAPTION = "a small red dog runs over green grass today"
NUMBER = 4000


def within(count: int, number: int, chance: float) -> bool:
    """Whether a count of independent lots is within five standard deviations of its mean."""
    return abs(count - number * chance) <= 5 * math.sqrt(number * chance * (1 - chance)) + 1e-9


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.5, 1.0])
def test_words_are_dropped_as_often_as_asked(chance: float) -> None:
    words = CAPTION.split()
    drawn = [drop_words(CAPTION, chance, Random(seed)).split() for seed in range(NUMBER)]
    assert all(kept for kept in drawn)
    for kept in drawn:  # in order, each at most once
        rest = iter(words)
        assert all(word in rest for word in kept)
    all_gone = chance ** len(words)  # then one of them stays, each as likely
    for word in words:
        stays = 1 - chance + all_gone / len(words)
        assert within(sum(word in kept for kept in drawn), NUMBER, stays)


@pytest.mark.parametrize("caption", ["dog", "  ", "", "囲み数字: *"[:5]])
def test_a_caption_of_one_word_stays(caption: str) -> None:
    assert drop_words(caption, 1.0, Random(0)) == caption
    assert swap_words(caption, 1.0, Random(0)) == caption
    assert swap_words(caption, 1.0, Random(0), adjacent=True) == caption
    assert limit_words(caption, 1) == caption
    assert crop_sentences(caption, 1, Random(0)) == caption


def test_an_unchanged_caption_keeps_its_spaces() -> None:
    odd = "two  spaces\tand a tab"
    assert drop_words(odd, 0.0, Random(0)) == odd
    assert swap_words(odd, 0.0, Random(0)) == odd
    assert limit_words(odd, 5) == odd
    assert limit_words(odd, 3) == "two spaces and"


@pytest.mark.parametrize("adjacent", [False, True])
def test_swapped_words_are_the_same_words(adjacent: bool) -> None:
    words = CAPTION.split()
    for seed in range(300):
        swapped = swap_words(CAPTION, 0.3, Random(seed), adjacent=adjacent).split()
        assert sorted(swapped) == sorted(words)
    unchanged = sum(swap_words(CAPTION, 0.05, Random(s), adjacent=adjacent) == CAPTION for s in range(NUMBER))
    places = len(words) - 1 if adjacent else len(words)
    at_least = 0.95**places  # and a little more often: a second swap may undo the first
    assert unchanged / NUMBER > at_least - 5 * math.sqrt(at_least * (1 - at_least) / NUMBER)
    assert unchanged / NUMBER < at_least + 0.05


def test_adjacent_swaps_move_words_by_one_place() -> None:
    assert swap_words("a b c d", 1.0, Random(0), adjacent=True) == "b c d a"
    pairs = {swap_words("a b c d", 0.2, Random(seed), adjacent=True) for seed in range(400)}
    assert {"a b c d", "b a c d", "a c b d", "a b d c"} <= pairs
    assert "d b c a" not in pairs
    assert "d b c a" in {swap_words("a b c d", 0.2, Random(seed)) for seed in range(400)}


@pytest.mark.parametrize(
    ("caption", "count", "windows"),
    [
        ("A dog runs. It is brown! Is it? Yes.", 1, ["A dog runs.", "It is brown!", "Is it?", "Yes."]),
        ("A dog runs. It is brown! Is it? Yes.", 3, ["A dog runs. It is brown! Is it?", "It is brown! Is it? Yes."]),
        ("one. two.  three.", 2, ["one. two.", "two.  three."]),
        ("first line\n\n second line", 1, ["first line", "second line"]),
        ("狗在跑。它是棕色的！", 1, ["狗在跑。", "它是棕色的！"]),
        ("No end", 1, ["No end"]),
        ("Only one.", 1, ["Only one."]),
        ("one. two.", 2, ["one. two."]),
        ("version 1.5 of it", 1, ["version 1.5 of it"]),
        ("", 1, [""]),
        ("...", 1, ["..."]),
    ],
)
def test_sentences(caption: str, count: int, windows: list[str]) -> None:
    assert sentence_windows(caption, count) == windows
    drawn = [crop_sentences(caption, count, Random(seed)) for seed in range(600)]
    for window in windows:
        assert within(drawn.count(window), 600, 1 / len(windows))
    assert set(drawn) == set(windows)


def test_picks_are_even() -> None:
    random = Random(3)
    drawn = [pick(7, random) for _ in range(NUMBER)]
    assert set(drawn) == set(range(7))
    assert all(within(drawn.count(value), NUMBER, 1 / 7) for value in range(7))
