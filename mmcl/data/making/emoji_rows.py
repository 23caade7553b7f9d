"""The emoji data set's rows: which emoji, their names in twenty languages, their families and splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmcl.data.making.emoji_splits import DRAWN_UP_TO, split_of
from mmcl.data.making.npm_packages import Package
from mmcl.errors import DataError

# Languages of `i18n`, beside English.
LANGUAGES = (
    "da", "de", "es", "fi", "fr", "hi", "hu", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "uk", "vi", "zh",
)  # fmt: skip
LABELS = {
    "Smileys & Emotion": "smiley or emotion",
    "People & Body": "person or body part",
    "Animals & Nature": "animal or plant",
    "Food & Drink": "food or drink",
    "Travel & Places": "travel or place",
    "Activities": "activity",
    "Objects": "object",
    "Symbols": "symbol",
    "Flags": "flag",
}
LICENCES = {"google": "Apache-2.0", "twitter": "CC-BY-4.0"}
_LEFT_OUT = ("country-flag", "subdivision-flag", "skin-tone")
# Code points that make no other emoji of one: presentation, joiner, female, male, direction.
_VARIANTS = {"FE0F", "200D", "2640", "2642", "27A1"}
_PERSONS = {"1F468", "1F469", "1F9D1"}
_FAMILY_SIGNS = {"1F466", "1F467", "1F9D2", "2764"}  # children, and the heart of couples


def emoji_family(codepoint: str) -> str:
    """The emoji without its gender, direction and person: the unit of the split.

    Example:
        >>> emoji_family("1F3C3-200D-2640-FE0F"), emoji_family("1F469-200D-1F680")
        ('1F3C3', 'PERSON-1F680')
    """
    parts = ["PERSON" if part in _PERSONS else part for part in codepoint.split("-") if part not in _VARIANTS]
    if "PERSON" in parts and _FAMILY_SIGNS & set(parts):
        return "FAMILY-OR-COUPLE"
    return "-".join(parts)


def emoji_rows(index: Package, names: Package) -> list[dict[str, Any]]:
    """The columns of every emoji that the index has an image of in some style, in the index's order.

    Args:
        index: ``emoji-datasource-google`` (or -twitter: the index is the same).
        names: ``emojibase-data``.

    Returns:
        One dictionary an emoji: the columns that both styles share, ``split``, and ``styles``: those with an image.
        Skin tones, country and regional flags are left out.

    Raises:
        DataError: a file is missing or of another layout, or an emoji has no English name.
    """
    translations = {language: _read_names(names, language) for language in ("en", *LANGUAGES)}
    rows, drawn = [], set()
    for entry in _read(index.folder / "emoji.json", list):
        try:
            code, label = entry["unified"], LABELS.get(entry["category"])
            kind, styles = entry["subcategory"], [style for style in LICENCES if entry[f"has_img_{style}"]]
            added_in = float(entry["added_in"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{index.folder / 'emoji.json'}: an entry without {error}; another layout?") from error
        if kind in _LEFT_OUT or label is None or not styles:
            continue
        rows.append({**_row(code, label, kind, translations, names), "styles": styles})
        if added_in <= DRAWN_UP_TO:
            drawn.add(rows[-1]["family"])
    return [{**row, "split": split_of(row["family"], drawn=row["family"] in drawn)} for row in rows]


def _row(
    code: str, label: str, kind: str, translations: Mapping[str, Mapping[str, dict[str, Any]]], names: Package
) -> dict[str, Any]:
    own = {language: _entry(entries, code) for language, entries in translations.items()}
    english = own["en"]
    if english is None:
        raise DataError(
            f"{names.folder / 'en' / 'data.json'} has no emoji {code}; take matching versions of the packages"
        )
    return {
        "text": english["label"],
        "lang": "en",
        "tags": list(english.get("tags", [])),
        "label": label,
        "sublabel": kind,
        "codepoint": code,
        "i18n": {language: (own[language] or {}).get("label") for language in LANGUAGES},
        "family": emoji_family(code),
        "group": code,
    }


def _entry(entries: Mapping[str, dict[str, Any]], code: str) -> dict[str, Any] | None:
    """An emoji's entry; the two indexes disagree on where the sign for "as a picture" stands."""
    return entries.get(code) or entries.get(code.replace("-FE0F", ""))


def _read_names(names: Package, language: str) -> dict[str, dict[str, Any]]:
    path = names.folder / language / "data.json"
    entries = _read(path, list)
    try:
        return {entry["hexcode"]: entry for entry in entries if entry["label"]}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: an entry without {error}; another layout?") from error


def _read(path: Path, kind: type) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the package is of another version or incomplete") from error
    except ValueError as error:
        raise DataError(f"{path}: malformed JSON ({error})") from error
    if not isinstance(value, kind):
        raise DataError(f"{path}: holds a {type(value).__name__}, wanted a {kind.__name__}")
    return value
