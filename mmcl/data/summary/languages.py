"""A guess at the languages of captions: their script first, then `py3langid` where a caption is long enough."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

UNDETERMINED = "undetermined"
LOOKED_AT = 2_000  # captions
SURE = 0.8  # probability from which a language counts as determined
_JOINED = 40  # undetermined captions that are judged as one text

# Unicode blocks (first and last code point) of letters, by script.
_BLOCKS = sorted(
    (first, last, script)
    for script, blocks in {
        "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0xD6), (0xD8, 0xF6), (0xF8, 0x24F), (0x1E00, 0x1EFF),
                  (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)),
        "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
        "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
        "Armenian": ((0x530, 0x58F),),
        "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
        "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
        "Devanagari": ((0x900, 0x97F),),
        "Bengali": ((0x980, 0x9FF),),
        "Gurmukhi": ((0xA00, 0xA7F),),
        "Gujarati": ((0xA80, 0xAFF),),
        "Odia": ((0xB00, 0xB7F),),
        "Tamil": ((0xB80, 0xBFF),),
        "Telugu": ((0xC00, 0xC7F),),
        "Kannada": ((0xC80, 0xCFF),),
        "Malayalam": ((0xD00, 0xD7F),),
        "Sinhala": ((0xD80, 0xDFF),),
        "Thai": ((0xE00, 0xE7F),),
        "Lao": ((0xE80, 0xEFF),),
        "Tibetan": ((0xF00, 0xFFF),),
        "Myanmar": ((0x1000, 0x109F),),
        "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
        "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF)),
        "Ethiopic": ((0x1200, 0x137F),),
        "Khmer": ((0x1780, 0x17FF),),
        "Kana": ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F)),
        "Han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),
    }.items()
    for first, last in blocks
)  # fmt: skip
_STARTS = [first for first, _, _ in _BLOCKS]

# Scripts that one language of today's captions is written in.
_LANGUAGE_OF = {
    "Greek": "el", "Armenian": "hy", "Hebrew": "he", "Gurmukhi": "pa", "Gujarati": "gu", "Odia": "or", "Tamil": "ta",
    "Telugu": "te", "Kannada": "kn", "Malayalam": "ml", "Sinhala": "si", "Thai": "th", "Lao": "lo", "Tibetan": "bo",
    "Myanmar": "my", "Georgian": "ka", "Hangul": "ko", "Khmer": "km", "Kana": "ja",
}  # fmt: skip


@dataclass(frozen=True)
class LanguageGuess:
    """What captions seem to be written in. A guess: short captions, names and related languages mislead it.

    Attributes:
        looked_at: captions that were looked at, drawn by lot.
        scripts: script -> share of them, by most of a caption's letters; "none": no letters.
        languages: ISO 639-1 code -> share of them, and ``undetermined``; largest first.
        together: script -> [code, probability]: what undetermined captions of that script seem to be in when some
            are read as one text.
    """

    looked_at: int
    scripts: dict[str, float]
    languages: dict[str, float]
    together: dict[str, tuple[str, float]]

    def likely(self) -> list[str]:
        """The codes of at least 5 % of the captions, and what the undetermined ones read as together."""
        named = [code for code, share in self.languages.items() if share >= 0.05 and code != UNDETERMINED]
        if self.languages.get(UNDETERMINED, 0) >= 0.05:
            scripts = [script for script, share in self.scripts.items() if share >= 0.05]
            # Japanese captions without Kana are no sign of Chinese.
            scripts = [script for script in scripts if script != "Han" or "ja" not in named]
            named += [code for script, (code, sure) in self.together.items() if script in scripts and sure >= SURE]
        return list(dict.fromkeys(named))


def script_of(text: str) -> str:
    """The script of most letters of a text; "none" where it has no letter. Han beside Kana is Kana (Japanese)."""
    counts: Counter[str] = Counter()
    for character in text:
        at = bisect.bisect_right(_STARTS, ord(character)) - 1
        if at >= 0 and ord(character) <= _BLOCKS[at][1] and character.isalpha():
            counts[_BLOCKS[at][2]] += 1
    if not counts:
        return "none"
    if counts["Kana"]:
        counts["Kana"] += counts.pop("Han", 0)
    return max(counts, key=lambda script: counts[script])


def guess_language(text: str) -> tuple[str, float]:
    """A text's language as ISO 639-1 (of some languages 639-3) and the probability of it; undetermined below 0.8."""
    script = script_of(text)
    if script == "none":
        return UNDETERMINED, 0.0
    if script in _LANGUAGE_OF:
        return _LANGUAGE_OF[script], 1.0
    code, probability = _identifier().classify(text)
    return (str(code), float(probability)) if probability >= SURE else (UNDETERMINED, float(probability))


def guess_languages(texts: Sequence[str]) -> LanguageGuess:
    """Guess at each of some captions.

    Args:
        texts: a sample, such as ``LOOKED_AT`` captions drawn by lot; none gives an empty guess.
    """
    scripts, languages = Counter[str](), Counter[str]()
    unclear: dict[str, list[str]] = {}
    for text in texts:
        script, language = script_of(text), guess_language(text)[0]
        scripts[script] += 1
        languages[language] += 1
        if language == UNDETERMINED and script != "none":
            unclear.setdefault(script, []).append(text)
    together = {}
    for script, captions in unclear.items():
        code, probability = _identifier().classify(". ".join(dict.fromkeys(captions[: 10 * _JOINED])))
        together[script] = (str(code), round(float(probability), 4))
    return LanguageGuess(len(texts), _shares(scripts), _shares(languages), together)


def _shares(counts: Counter[str]) -> dict[str, float]:
    return {name: count / counts.total() for name, count in counts.most_common()}


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
