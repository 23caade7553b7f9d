"""`change_text`: a caption as a careless writer, another keyboard or another person would have written it."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from mmcl.errors import ConfigError

LETTERS_PER_TYPO = 10
WORDS_PER_DROPPED = 5
# Some fit a noun phrase better and some a sentence, as captions are either.
PARAPHRASE_TEMPLATES = (
    "a picture of {}",
    "an image that shows {}",
    "{}, shown in an image",
    "this is what can be seen here: {}",
    "{}, as seen in a picture",
    "in the picture: {}",
)
_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Letter -> the letters beside it on a QWERTY keyboard, and the nearest two of the row above or below."""
    near: dict[str, str] = {}
    for number, row in enumerate(_KEY_ROWS):
        for place, letter in enumerate(row):
            keys = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            if number > 0:
                keys += _KEY_ROWS[number - 1][place : place + 2]
            if number < len(_KEY_ROWS) - 1:
                keys += _KEY_ROWS[number + 1][max(0, place - 1) : place + 1]
            near[letter] = keys
    return near


_NEAR_KEYS = _neighbours()


def _pick(rng: Random, options: Sequence[Any]) -> Any:
    # random() alone is promised to stay the same in other versions of Python.
    return options[int(rng.random() * len(options))]


def _shuffled(rng: Random, items: Sequence[Any]) -> list[Any]:
    left = list(items)
    return [left.pop(int(rng.random() * len(left))) for _ in range(len(left))]


def _typos(text: str, rng: Random) -> str:
    """One letter in ten (at least one): swapped with the next, left out, doubled, or the key beside it."""
    places = [place for place, letter in enumerate(text) if letter.isalpha()]
    wanted = max(1, round(len(places) / LETTERS_PER_TYPO))
    letters = list(text)
    taken: set[int] = set()
    for place in _shuffled(rng, places):
        if len(taken) == 2 * wanted:
            break
        if place in taken or place + 1 in taken:
            continue
        letters[place : place + 2] = [*_mistyped(letters[place : place + 2], rng), ""][:2]
        taken |= {place, place + 1}
    return "".join(letters)


def _mistyped(pair: list[str], rng: Random) -> list[str]:
    """A letter and what follows it, with one mistake that changes them; the same number of cells or one fewer."""
    letter, rest = pair[0], pair[1:]
    ways = [[letter + letter, *rest]]
    if rest and rest[0].isalpha():
        ways.append(["", *rest])
        if rest[0] != letter:
            ways.append([rest[0], letter])
    near = _NEAR_KEYS.get(letter.lower())
    if near:
        key = _pick(rng, near)
        ways.append([key.upper() if letter.isupper() else key, *rest])
    return _pick(rng, ways)


def _title_case(text: str, rng: Random) -> str:
    return re.sub(r"\S+", lambda word: word[0][:1].upper() + word[0][1:], text)


def _no_punctuation(text: str, rng: Random) -> str:
    """Dashes become spaces and other punctuation goes; a text of nothing else stays as it is."""
    kinds = [unicodedata.category(letter) for letter in text]
    kept = "".join(
        " " if kind == "Pd" else letter for letter, kind in zip(text, kinds) if kind[0] != "P" or kind == "Pd"
    )
    return " ".join(kept.split()) or text


def _word_order(text: str, rng: Random) -> str:
    words = text.split()
    if len(set(words)) < 2:
        return text
    order = _shuffled(rng, words)
    while order == words:
        order = _shuffled(rng, words)
    return " ".join(order)


def _dropped_words(text: str, rng: Random) -> str:
    """One word in five is left out, at least one; a single word stays."""
    words = text.split()
    if len(words) < 2:
        return text
    gone = set(_shuffled(rng, range(len(words)))[: max(1, round(len(words) / WORDS_PER_DROPPED))])
    return " ".join(word for place, word in enumerate(words) if place not in gone)


def _paraphrase(text: str, rng: Random) -> str:
    said = text.strip().removesuffix(".")
    if not said:
        return text
    return _pick(rng, PARAPHRASE_TEMPLATES).replace("{}", said)


TEXT_CHANGES: dict[str, Callable[[str, Random], str]] = {
    "typos": _typos,
    "lower_case": lambda text, rng: text.lower(),
    "upper_case": lambda text, rng: text.upper(),
    "title_case": _title_case,
    "no_punctuation": _no_punctuation,
    "word_order": _word_order,
    "dropped_words": _dropped_words,
    "paraphrase": _paraphrase,
}


def change_text(text: str, name: str, *, seed: int = 0) -> str:
    """A text, written otherwise.

    What is drawn depends on the text, the name and the seed alone: equal texts change alike, wherever they stand.
    A text that offers nothing to change is returned as it is: one word has no other order, Chinese has no capitals,
    and words are what stands between spaces.

    Args:
        text: any, of any script; may be empty.
        name: one of ``TEXT_CHANGES``: ``typos`` (one letter in ten swapped, left out, doubled or mistyped by a key),
            ``lower_case``, ``upper_case``, ``title_case``, ``no_punctuation``, ``word_order`` (shuffled),
            ``dropped_words`` (one in five), ``paraphrase`` (an English sentence around it).
        seed: of the draw.

    Raises:
        ConfigError: an unknown name.

    Source:
        Belinkov & Bisk 2018, "Synthetic and Natural Noise Both Break Neural Machine Translation" (swaps and
        neighbouring keys); Qiu et al. 2022, "Benchmarking Robustness of Multimodal Image-Text Models under Distribution
        Shift" (captions changed by letter, word and sentence). Deviation: rates and templates are this module's own.

    Example:
        >>> change_text("a red star", "upper_case")
        'A RED STAR'
        >>> change_text("star", "word_order")
        'star'
    """
    check_text_change(name)
    return TEXT_CHANGES[name](text, Random(f"mmcl text {name} {seed} {text}"))


def check_text_change(name: str) -> None:
    """Refuse a change that there is not.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in TEXT_CHANGES:
        near = difflib.get_close_matches(name, TEXT_CHANGES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(TEXT_CHANGES)}"
        raise ConfigError(f"unknown text change {name!r}; {hint}")
