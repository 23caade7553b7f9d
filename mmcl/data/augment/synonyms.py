"""A table of words and phrases with what may stand for each, and captions with some of them exchanged."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

from mmcl.data.augment.words import pick
from mmcl.errors import ConfigError, DataError

# A word with its inner apostrophes and hyphens: "don't", "t-shirt".
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_HEADERS = ("alternative", "alternatives", "synonym", "synonyms")


class Synonyms:
    """Words and phrases, and what may stand for each.

    Args:
        table: word or phrase -> alternatives, at least one each; upper and lower case are the same.

    Raises:
        DataError: an entry without a word or without alternatives.

    Source: synonym replacement of Wei and Zou, arXiv:1901.11196, section 2, with the user's table for WordNet.

    Example:
        >>> Synonyms({"hot dog": ["sausage"]}).replace("A Hot dog.", 1.0, Random(0))
        'A Sausage.'
    """

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self._table: dict[str, list[str]] = {}
        for phrase, alternatives in table.items():
            key = _key(phrase)
            if not key or not alternatives or not all(other.strip() for other in alternatives):
                raise DataError(f"synonyms: {phrase!r} -> {list(alternatives)}; want a word and what may stand for it")
            known = self._table.setdefault(key, [])
            known.extend(other for other in alternatives if other not in known)
        self._longest = max((key.count(" ") + 1 for key in self._table), default=0)

    def __len__(self) -> int:
        return len(self._table)

    def alternatives(self, phrase: str) -> list[str]:
        """What may stand for a word or phrase; empty where the table does not have it."""
        return list(self._table.get(_key(phrase), ()))

    def replace(self, caption: str, probability: float, random: Random) -> str:
        """A caption with some of its known words and phrases exchanged, each by its own lot.

        The longest phrase that fits at a place counts. A capital first letter, or capitals throughout, are kept;
        everything between the words stays. Articles are not adapted ("a" before a vowel).

        Args:
            caption: any text.
            probability: of each known word or phrase to be exchanged; its alternatives are equally likely.
            random: where the lots come from.
        """
        words = list(_WORD.finditer(caption))
        parts, begin, place = [], 0, 0
        while place < len(words):
            count, found = self._at(caption, words, place)
            if found and random.random() < probability:
                first, last = words[place].start(), words[place + count - 1].end()
                parts += [caption[begin:first], _like(found[pick(len(found), random)], caption[first:last])]
                begin = last
            place += count
        return "".join([*parts, caption[begin:]])

    def _at(self, caption: str, words: list[re.Match[str]], place: int) -> tuple[int, list[str] | None]:
        """How many words the longest known phrase at a place has, and its alternatives; one and None without."""
        for count in range(min(self._longest, len(words) - place), 0, -1):
            run = words[place : place + count]
            between = all(caption[a.end() : b.start()].isspace() for a, b in pairwise(run))
            found = self._table.get(" ".join(word[0] for word in run).casefold()) if between else None
            if found:
                return count, found
        return 1, None


def read_synonyms(path: str | Path) -> Synonyms:
    """Read a table of synonyms.

    ``.csv`` and ``.tsv``: a word or phrase, then its alternatives, in further columns or split by ``|``; a first line
    ``word,alternatives`` is passed over. ``.jsonl``: one ``{"word": "dog", "alternatives": ["hound"]}`` a line. UTF-8.
    Blank lines are passed over; a word that stands in several lines has the alternatives of all.

    Raises:
        ConfigError: no such file, or another ending.
        DataError: a line that is not so; file and line are named.
    """
    path = Path(path).expanduser()
    readers = {".csv": _csv_entries, ".tsv": _csv_entries, ".jsonl": _json_entries}
    if path.suffix.lower() not in readers:
        raise ConfigError(f"data.captions.synonyms: {path} is none of {', '.join(readers)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8; save the table as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"data.captions.synonyms: {path} cannot be read ({error.strerror or error})") from error
    table: dict[str, list[str]] = {}
    for line, word, alternatives in readers[path.suffix.lower()](text, path):
        alternatives = [other.strip() for other in alternatives if other.strip()]
        if not _key(word):
            raise DataError(f"{path}, line {line}: {word!r} is no word; want a word or phrase, then its alternatives")
        if not alternatives:
            raise DataError(f"{path}, line {line}: {word!r} has no alternative; give one, or remove the line")
        table.setdefault(_key(word), []).extend(alternatives)
    if not table:
        raise DataError(f"{path} holds no synonyms; want a word or phrase and its alternatives in each line")
    return Synonyms(table)


def _csv_entries(text: str, path: Path) -> Iterator[tuple[int, str, list[str]]]:
    rows = csv.reader(text.splitlines(keepends=True), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    line = 1
    while True:
        try:
            cells = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}, line {rows.line_num}: not a table of synonyms ({error})") from error
        begin, line = line, rows.line_num + 1  # a quoted cell may run over several lines
        header = begin == 1 and cells[0].strip().lower() == "word" and cells[-1].strip().lower() in _HEADERS
        if any(cell.strip() for cell in cells) and not header:
            yield begin, cells[0], [other for cell in cells[1:] for other in cell.split("|")]


def _json_entries(text: str, path: Path) -> Iterator[tuple[int, str, list[str]]]:
    for line, source in enumerate(text.split("\n"), start=1):
        if not source.strip():
            continue
        try:
            entry = json.loads(source)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {line}: not JSON ({error.msg})") from error
        word = entry.get("word") if isinstance(entry, dict) else None
        others = entry.get("alternatives") if isinstance(entry, dict) else None
        others = [others] if isinstance(others, str) else others
        if not isinstance(word, str) or not isinstance(others, list) or not all(isinstance(o, str) for o in others):
            raise DataError(
                f'{path}, line {line}: found {source.strip()[:80]}; want {{"word": "dog", "alternatives": ["hound"]}}'
            )
        yield line, word, others


def _key(phrase: str) -> str:
    return " ".join(_WORD.findall(phrase)).casefold()


def _like(word: str, model: str) -> str:
    """A word in the case of another: "Dog" makes "hound" "Hound", "DOG" makes it "HOUND"."""
    if len(model) > 1 and model.isupper():
        return word.upper()
    return word[0].upper() + word[1:] if model[0].isupper() else word
