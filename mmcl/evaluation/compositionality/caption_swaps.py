"""`swap_caption`: a caption made false by one exchange of words, by rule and without a picture; English alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

from mmcl.errors import ConfigError

if TYPE_CHECKING:
    from mmcl.data.dataset import ImageTextDataset

SWAP_KINDS = ("attribute", "count", "relation", "swap")

_COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "brown", "black", "white", "grey", "orange")
_SPELLED = {"gray": "grey"}
_OPPOSITES = (
    *(("small", "large"), ("little", "big"), ("tiny", "huge"), ("short", "tall"), ("thin", "thick")),
    *(("young", "old"), ("open", "closed"), ("empty", "full"), ("wet", "dry"), ("smiling", "crying")),
)
_RELATIONS = (
    *(("left", "right"), ("above", "below"), ("over", "under"), ("in front of", "behind"), ("inside", "outside")),
    *(("on top of", "underneath"), ("upward", "downward"), ("upwards", "downwards")),
)
# From two on, so that the noun stays in the plural.
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_BETWEEN_EQUALS = re.compile(r"\s*(,|,?\s*(and|or|&))?\s*")

Span = tuple[int, int, str]  # from, to, what comes there


def _other_ways(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    return {one: other for pair in pairs for one, other in (pair, pair[::-1])}


_ADJECTIVE = _other_ways(_OPPOSITES)
_RELATION = _other_ways(_RELATIONS)


def _finder(words: Sequence[str]) -> re.Pattern[str]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![\w-])({'|'.join(longest_first)})(?![\w-])", re.IGNORECASE)


_FIND_COLOUR = _finder([*_COLOURS, *_SPELLED])
_FIND_ADJECTIVE = _finder(list(_ADJECTIVE))
_FIND_RELATION = _finder(list(_RELATION))
_DIGITS = r"(?<![\w.,:/-])([2-9]|[1-9]\d)(?![\w:/%-]|[.,]\d)"  # no part of a time, date, share or longer number
_FIND_NUMBER = re.compile(f"{_finder(_NUMBERS).pattern}|{_DIGITS}", re.IGNORECASE)


def _colours(text: str) -> list[re.Match[str]]:
    # "an orange" may be a fruit; before another word it is a colour.
    found = _FIND_COLOUR.finditer(text)
    return [one for one in found if one[0].lower() != "orange" or re.match(r"\s+[^\W\d_]", text[one.end() :])]


def _attribute(text: str, rng: Random) -> list[Span]:
    """One colour for another, or one quality for its opposite."""
    spans = []
    present = {_SPELLED.get(one[0].lower(), one[0].lower()) for one in _colours(text)}
    others = [colour for colour in _COLOURS if colour not in present]
    spans += [(*one.span(), _pick(rng, others)) for one in _colours(text) if others]
    spans += [(*one.span(), _ADJECTIVE[one[0].lower()]) for one in _FIND_ADJECTIVE.finditer(text)]
    return [_pick(rng, spans)] if spans else []


def _count(text: str, rng: Random) -> list[Span]:
    """One number for that above or below it."""
    spans = []
    for one in _FIND_NUMBER.finditer(text):
        word = one[0].lower()
        if word.isdigit():
            near = [str(number) for number in (int(word) - 1, int(word) + 1) if number >= 2]
        else:
            place = _NUMBERS.index(word)
            near = [_NUMBERS[at] for at in (place - 1, place + 1) if 0 <= at < len(_NUMBERS)]
        spans.append((*one.span(), _pick(rng, near)))
    return [_pick(rng, spans)] if spans else []


def _relation(text: str, rng: Random) -> list[Span]:
    """One direction or place turned round."""
    spans = [(*one.span(), _RELATION[one[0].lower()]) for one in _FIND_RELATION.finditer(text)]
    return [_pick(rng, spans)] if spans else []


def _swap(text: str, rng: Random) -> list[Span]:
    """Two colours, two qualities or two numbers that belong to different things change places."""
    choices = []
    for found in (_colours(text), list(_FIND_ADJECTIVE.finditer(text)), list(_FIND_NUMBER.finditer(text))):
        for first, second in pairwise(found):
            alike = first[0].lower() == second[0].lower()
            # "red and blue" says the same as "blue and red".
            if not alike and not _BETWEEN_EQUALS.fullmatch(text[first.end() : second.start()]):
                choices.append([(*first.span(), second[0].lower()), (*second.span(), first[0].lower())])
    return _pick(rng, choices) if choices else []


_RULES: dict[str, Callable[[str, Random], list[Span]]] = {
    "attribute": _attribute,
    "count": _count,
    "relation": _relation,
    "swap": _swap,
}


def swap_caption(text: str, kind: str, *, seed: int = 0) -> str | None:
    """The caption with one exchange of words that makes a true one false, where the words mean what they mostly do.

    Capitals and the articles "a" and "an" follow the new word. What is drawn depends on the text, kind and seed alone.

    Args:
        text: an English caption.
        kind: ``attribute`` (a colour, size or the like), ``count`` (a number from two on, by one), ``relation`` (left
            and right, above and below, ...), ``swap`` (two attributes of one kind change places).
        seed: of the draw.

    Returns:
        The false caption, or None where the rules find nothing to exchange.

    Raises:
        ConfigError: an unknown kind.

    Source:
        Shekhar et al. 2017 (foils by one word); Yuksekgonul et al. 2023 (ARO: attributes and relations exchanged).
        Deviation: small tables of words in the place of a parser or annotations. Two things joined by "and" are not
        exchanged: that says the same as before.

    Example:
        >>> swap_caption("a red cup left of a blue plate", "swap")
        'a blue cup left of a red plate'
        >>> swap_caption("a cup", "count") is None
        True
    """
    if kind not in _RULES:
        raise ConfigError(f"unknown kind of foil {kind!r}; there are {', '.join(SWAP_KINDS)}")
    spans = _RULES[kind](text, Random(f"mmcl swap {kind} {seed} {text}"))
    if not spans:
        return None
    for start, end, word in sorted(spans, reverse=True):
        text = _with_article(text[:start], word) + _cased(word, like=text[start:end]) + text[end:]
    return text


def make_foils(dataset: ImageTextDataset, *, seed: int = 0) -> tuple[list[list[dict[str, str]]], int]:
    """Foils of every caption of every row, one of each kind that its words allow.

    Args:
        dataset: with English captions.
        seed: of the draw.

    Returns:
        For each row a list of ``{kind, caption, foil}``, as the column ``foils`` holds them; and how many were left out
        because another caption of the same group says just that.
    """
    captions = dataset.column("texts")
    groups = dataset.group_ids().tolist()
    said: dict[int, set[str]] = {}
    for group, texts in zip(groups, captions):
        said.setdefault(group, set()).update(text.lower() for text in texts)
    cells, dropped = [], 0
    for group, texts in zip(groups, captions):
        cell = []
        for caption in dict.fromkeys(texts):
            for kind in SWAP_KINDS:
                foil = swap_caption(caption, kind, seed=seed)
                if foil is not None and foil.lower() in said[group]:
                    dropped += 1
                elif foil is not None:
                    cell.append({"kind": kind, "caption": caption, "foil": foil})
        cells.append(cell)
    return cells, dropped


def _pick(rng: Random, options: Sequence) -> str | Span | list[Span]:
    # random() alone is promised to stay the same in other versions of Python.
    return options[int(rng.random() * len(options))]


def _cased(word: str, *, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if like[:1].isupper() else word


def _with_article(before: str, word: str) -> str:
    """What stands before the word, its "a" or "an" fitted to it."""
    article = re.search(r"(?<!\w)(an?)(\s+)$", before, re.IGNORECASE)
    if article is None:
        return before
    wanted = article[1][0] + ("n" if word[0] in "aeiou" else "")
    return before[: article.start()] + wanted + article[2]
