"""Random changes to the words and sentences of one caption. None of them ever leaves a caption empty."""

from __future__ import annotations

import re
from random import Random

# Behind . ! ? and a space, behind the full stops of Chinese and Japanese, and at line ends; behind "Dr." too.
_SENTENCE_ENDS = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\s*\n\s*")


def pick(number: int, random: Random) -> int:
    """One of 0 ... number - 1; ``Random.random`` alone gives the same numbers in every version of Python."""
    return int(random.random() * number)


def drop_words(caption: str, probability: float, random: Random) -> str:
    """A caption without some of its words; one word, drawn by lot, stays where all would go.

    Words stand between spaces: a caption in a language without them is one word and stays.

    Args:
        caption: any text.
        probability: of each word to be left out.
        random: where the lots come from.

    Source: random deletion of Wei and Zou, arXiv:1901.11196, section 2.

    Example:
        >>> drop_words("a red apple", 1.0, Random(0)) in ("a", "red", "apple")
        True
    """
    words = caption.split()
    if len(words) < 2:
        return caption
    kept = [word for word in words if random.random() >= probability]
    if len(kept) == len(words):
        return caption
    return " ".join(kept or [words[pick(len(words), random)]])


def swap_words(caption: str, probability: float, random: Random, *, adjacent: bool = False) -> str:
    """A caption in which some words have changed places with another.

    Args:
        caption: any text.
        probability: of each place, from the first to the last, to be exchanged with another one.
        random: where the lots come from.
        adjacent: each with the place behind it, the last one with none; else with any other.

    Source: random swap of Wei and Zou, arXiv:1901.11196, section 2; they swap a fixed share of the words, here each
        is swapped by its own lot, which is the same share on average.
    """
    words = caption.split()
    last = len(words) - 1
    if last < 1:
        return caption
    swapped = False
    for place in range(last if adjacent else last + 1):
        if random.random() < probability:
            other = place + 1 if adjacent else (place + 1 + pick(last, random)) % len(words)
            words[place], words[other] = words[other], words[place]
            swapped = True
    return " ".join(words) if swapped else caption


def sentence_windows(caption: str, count: int) -> list[str]:
    """Every run of ``count`` neighbouring sentences, as they stand; the caption itself where it has no more of them."""
    starts, ends = [], []
    begin = 0
    for match in (*_SENTENCE_ENDS.finditer(caption), None):
        end = match.start() if match else len(caption)
        if caption[begin:end].strip():
            starts.append(begin)
            ends.append(end)
        begin = match.end() if match else end
    if len(starts) <= count:
        return [caption]
    return [caption[starts[first] : ends[first + count - 1]].strip() for first in range(len(starts) - count + 1)]


def crop_sentences(caption: str, count: int, random: Random) -> str:
    """``count`` neighbouring sentences of a long caption, drawn by lot; a caption with no more of them stays.

    Source: the sub-captions of Zheng et al., arXiv:2403.17007, section 3.2, which also uses several of them at once.

    Example:
        >>> crop_sentences("A dog runs. It is brown.", 1, Random(0)) in ("A dog runs.", "It is brown.")
        True
    """
    windows = sentence_windows(caption, count)
    return windows[pick(len(windows), random)]


def limit_words(caption: str, most: int) -> str:
    """The first ``most`` words; a caption with no more of them stays as it is."""
    words = caption.split()
    return caption if len(words) <= most else " ".join(words[:most])
