"""`Limits`: the thresholds of the audit's checks, with their defaults and where those come from."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mmcl.errors import ConfigError


def _limit(default: float, text: str, *, least: float = 0, most: float = float("inf")) -> float:
    return field(default=default, metadata={"text": text, "range": (least, most)})


@dataclass(frozen=True)
class Limits:
    """Where each check begins to find something; every field says what it is in its metadata ``text``.

    Raises:
        ConfigError: a value out of its range.

    Example:
        >>> Limits(min_pixels=64).min_pixels
        64
    """

    min_pixels: int = _limit(32, "an image whose longer side has fewer pixels is tiny", least=1)
    max_aspect: float = _limit(8.0, "an image whose longer side is more times the shorter is extreme", least=1)
    max_megapixels: float = _limit(50.0, "an image of more megapixels is huge")
    blank_std: float = _limit(
        2.0, "an image whose grey levels (0-255) have a smaller standard deviation is blank", most=128
    )
    max_tokens: int = _limit(77, "a caption of more tokens (about 4 bytes each) will be cut by CLIP", least=1)
    max_chars: int = _limit(2000, "a caption of more characters is over-long", least=1)
    boilerplate_rows: int = _limit(5, "a caption or known phrase of so many unrelated rows is boilerplate", least=2)
    edge_share: float = _limit(0.005, "share of the captions that begin or end alike, to be a template", most=1)
    near_bits: int = _limit(18, "images whose hashes differ in more of their 64 bits are not compared", most=24)
    near_bits_many: int = _limit(10, "the same for more than 8,192 different images, where bits cost time", most=24)
    near_difference: float = _limit(0.05, "aligned pictures that differ more somewhere (0-1) are no duplicates", most=1)
    generic_rows: int = _limit(5, "a caption of more unrelated rows says nothing of a leak", least=1)
    group_rows: int = _limit(100, "a group of more rows, and 20 times the median, is suspicious", least=2)
    mismatch_z: float = _limit(1.64, "a pair within so many standard deviations of random pairs does not fit")
    neighbours: int = _limit(5, "nearest images of each that are compared when a model is given", least=1)
    twin_cosine: float = _limit(0.98, "images whose embeddings are more alike are named", least=-1, most=1)
    neighbour_cosine: float = _limit(0.9, "images whose embeddings are less alike are not compared", least=-1, most=1)

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value, (least, most) = getattr(self, entry.name), entry.metadata["range"]
            if not least <= value <= most:
                wanted = f"at least {least:g}" if most == float("inf") else f"{least:g} to {most:g}"
                raise ConfigError(f"{entry.name} is {value:g}; want {wanted} ({entry.metadata['text']})")


def limits_from(pairs: Iterable[str]) -> Limits:
    """Limits from ``NAME=VALUE`` texts.

    Raises:
        ConfigError: no such limit, no number, or one out of range.

    Example:
        >>> limits_from(["max_tokens=64", "blank_std=1"]).max_tokens
        64
    """
    known = {entry.name: type(entry.default) for entry in dataclasses.fields(Limits)}
    given: dict[str, float] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        check_name(name, known, what="threshold")
        try:
            given[name] = known[name](text) if sign else _no_value()
        except ValueError as error:
            kind = "a whole number" if known[name] is int else "a number"
            raise ConfigError(f"threshold {pair!r}: want {name}=VALUE with {kind}") from error
    return Limits(**given)


def check_name(name: str, known: Mapping[str, object] | Iterable[str], *, what: str) -> None:
    """Refuse a name that is not among those known; the message has the nearest, and all.

    Raises:
        ConfigError: it is not.
    """
    names = list(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ConfigError(f"there is no {what} {name!r}{hint}; known are {', '.join(names)}")


def _no_value() -> float:
    raise ValueError
