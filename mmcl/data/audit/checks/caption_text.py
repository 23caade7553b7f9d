"""Captions by their characters: too long, without words, with damage or markup in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.audit.audited import Audited
from mmcl.data.audit.check import Check, Found

_SHOWN = 80  # characters of a caption in a finding
_BYTES_A_TOKEN = 4  # of English in CLIP's vocabulary; other scripts have more tokens
_WORD = r"[\p{L}\p{N}\p{So}\p{Sm}]"  # a pictograph says something too
_CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F\x{FFFD}]"
# UTF-8 that was read as Latin-1 or Windows-1252.
_MOJIBAKE = r"[\x{C3}\x{C2}][\x{80}-\x{BF}]|\x{E2}\x{20AC}|\x{C3}[\x{192}\x{201A}\x{A0}-\x{BF}]"
_ADDRESS = r"https?://|\bwww\.[a-z0-9-]+\."
_HTML = r"</?[a-z][a-z0-9]*(\s[^<>]*)?/?>|&(amp|nbsp|quot|lt|gt|#\d+);"
_FILE_NAME = r"^\S+\.(jpe?g|png|gif|webp|bmp|tiff?|heic|svg|pdf)$|^(img|dsc|dscn|dscf|p|mvc|pict)[_-]?\d{3,}$"


def shown(text: str) -> str:
    """The beginning of a text, in quotes."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + " ...")


def _matching(
    wanted: Callable[[pa.Array], pa.Array], detail: Callable[[str], str]
) -> Callable[[Audited], Iterator[Found]]:
    """A check of captions one by one; a row is found once, with the first of its captions."""

    def find(audited: Audited) -> Iterator[Found]:
        for rows, texts in audited.captions.parts():
            places = np.flatnonzero(pc.fill_null(wanted(texts), False).to_numpy(zero_copy_only=False))
            owners, first = np.unique(rows[places], return_index=True)
            yield Found(owners, [detail(texts[int(place)].as_py()) for place in places[first]])

    return find


def _regex(pattern: str, what: str) -> Callable[[Audited], Iterator[Found]]:
    def wanted(texts: pa.Array) -> pa.Array:
        return pc.match_substring_regex(texts, pattern=pattern, ignore_case=True)

    return _matching(wanted, lambda text: f"{what}: {shown(text)}")


def _wordless(texts: pa.Array) -> pa.Array:
    return pc.invert(pc.match_substring_regex(texts, pattern=_WORD))


def _long(audited: Audited) -> Iterator[Found]:
    limit = audited.limits.max_chars
    yield from _matching(
        lambda texts: pc.greater(pc.utf8_length(texts), limit), lambda text: f"{len(text):,} characters: {shown(text)}"
    )(audited)


def _many_tokens(audited: Audited) -> Iterator[Found]:
    limits = audited.limits

    def wanted(texts: pa.Array) -> pa.Array:
        over = pc.greater(pc.binary_length(texts), limits.max_tokens * _BYTES_A_TOKEN)
        return pc.and_(over, pc.less_equal(pc.utf8_length(texts), limits.max_chars))

    def detail(text: str) -> str:
        return f"about {len(text.encode()) // _BYTES_A_TOKEN} tokens: {shown(text)}"

    yield from _matching(wanted, detail)(audited)


WORDLESS = Check(
    "wordless_caption", "warning", "look",
    "Captions without a letter, digit or symbol: punctuation alone.",
    _matching(_wordless, lambda text: f"no word: {shown(text)}"),
)  # fmt: skip

LONG_CAPTION = Check(
    "long_caption", "warning", "look",
    "Captions of more characters than the threshold max_chars: whole pages, or a column read as one cell.",
    _long,
)  # fmt: skip

TOO_MANY_TOKENS = Check(
    "many_tokens", "note", "keep",
    "Captions of probably more tokens than the threshold max_tokens, at 4 bytes each: CLIP reads the first 77.",
    _many_tokens,
)  # fmt: skip

CONTROL_CHARACTERS = Check(
    "damaged_characters", "warning", "look",
    "Captions with control or replacement characters, or UTF-8 that was read as Latin-1 (\u00c3\u00a9 for \u00e9).",
    _regex(f"{_CONTROL}|{_MOJIBAKE}", "damaged"),
)  # fmt: skip

MARKUP = Check(
    "markup_caption", "warning", "look",
    "Captions that hold a web address or HTML, or are a file name.",
    _regex(f"{_ADDRESS}|{_HTML}|{_FILE_NAME}", "no plain text"),
)  # fmt: skip
