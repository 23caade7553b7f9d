"""`change_text`: what each change does, and that the same text always gets the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path

import pytest

from mmcl.errors import ConfigError
from mmcl.evaluation import TEXT_CHANGES, change_text
from mmcl.evaluation.robustness.text_perturbations import PARAPHRASE_TEMPLATES

CAPTIONS = [
    "a small red star above two large striped circles on a plain background",
    "A Man rides a Horse; the horse, it seems, is tired.",
    "ein kleiner grüner Baum",
    "маленькая красная звезда над кругом",
    "एक छोटा लाल तारा",
    "小さな赤い星",
    "نجمة حمراء صغيرة",
    "🙂 smile",
]


def edits(old: str, new: str) -> int:
    """Levenshtein's distance, by the textbook's table."""
    row = list(range(len(new) + 1))
    for i, one in enumerate(old, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(new, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


@pytest.mark.parametrize("name", TEXT_CHANGES)
@pytest.mark.parametrize("text", [*CAPTIONS, "star", "星", "?!", "", "   ", "a a a", "x" * 3000])
def test_any_text_is_changed_alike_each_time(name: str, text: str) -> None:
    changed = change_text(text, name)
    assert isinstance(changed, str)
    assert change_text(text, name) == changed
    assert bool(changed.strip()) == bool(text.strip())


@pytest.mark.parametrize("text", CAPTIONS)
def test_typos_are_few_and_always_there(text: str) -> None:
    letters = sum(letter.isalpha() for letter in text)
    found = [change_text(text, "typos", seed=seed) for seed in range(40)]
    for changed in found:
        # A swap counts as two edits.
        assert 1 <= edits(text, changed) <= 2 * max(1, round(letters / 10))
        assert changed.count(" ") == text.count(" ")
    assert len(set(found)) > 3


def test_typos_are_of_four_kinds() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        changed = change_text("planet", "typos", seed=seed)
        if len(changed) == 5:
            seen["left out"] += 1
        elif len(changed) == 7:
            seen["doubled"] += 1
            assert any(one == other for one, other in pairwise(changed))
        elif Counter(changed) == Counter("planet"):
            seen["swapped"] += 1
        else:
            seen["key"] += 1
            (old, new) = next((a, b) for a, b in zip("planet", changed) if a != b)
            assert new in {"p": "ol", "l": "pkom", "a": "qwsz", "n": "bmhj", "e": "wrsd", "t": "ryfg"}[old]
    assert min(seen.values()) > 40
    assert len(seen) == 4
    assert change_text("PLANET", "typos", seed=1).isupper()


def test_case_and_punctuation() -> None:
    text = "A Man's dog -- wow: close-up!"
    assert change_text(text, "lower_case") == "a man's dog -- wow: close-up!"
    assert change_text(text, "upper_case") == "A MAN'S DOG -- WOW: CLOSE-UP!"
    assert change_text(text, "title_case") == "A Man's Dog -- Wow: Close-up!"
    assert change_text(text, "no_punctuation") == "A Mans dog wow close up"
    assert change_text("¿Qué? «sí»", "no_punctuation") == "Qué sí"
    assert change_text("...", "no_punctuation") == "..."
    for name in ("lower_case", "upper_case", "title_case"):
        assert change_text("赤い星", name) == "赤い星"


def test_words_change_places_or_go() -> None:
    text = "one two three four five six seven eight nine ten"
    shuffled = [change_text(text, "word_order", seed=seed) for seed in range(50)]
    assert all(Counter(one.split()) == Counter(text.split()) and one != text for one in shuffled)
    assert len(set(shuffled)) > 45
    first = Counter(one.split()[0] for one in shuffled)
    assert max(first.values()) < 20
    fewer = [change_text(text, "dropped_words", seed=seed).split() for seed in range(50)]
    for words in fewer:
        assert len(words) == 8
        assert SequenceMatcher(None, text.split(), words).ratio() == pytest.approx(2 * 8 / 18)  # in their order
    assert change_text("two words", "dropped_words") in ("two", "words")
    assert change_text("two words", "word_order") == "words two"
    for name in ("word_order", "dropped_words"):
        assert change_text("word", name) == "word"
    assert change_text("la la la", "word_order") == "la la la"


def test_paraphrases_hold_the_caption() -> None:
    found = {change_text("a red star.", "paraphrase", seed=seed) for seed in range(100)}
    assert found == {template.replace("{}", "a red star") for template in PARAPHRASE_TEMPLATES}
    assert "{}" not in change_text("braces {} here", "paraphrase").replace("braces {} here", "")


def test_the_seed_is_the_text_itself(run_python: Callable, tmp_path: Path) -> None:
    code = "from mmcl.evaluation import change_text; print(change_text('a small red star', 'typos', seed=3))"
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.strip() == change_text("a small red star", "typos", seed=3), done.stderr
    assert change_text("a small red star", "typos", seed=4) != done.stdout.strip()


def test_unknown_changes() -> None:
    with pytest.raises(ConfigError, match="did you mean 'word_order'"):
        change_text("a", "wordorder")
    with pytest.raises(ConfigError, match="there are typos, lower_case"):
        change_text("a", "zzz")
