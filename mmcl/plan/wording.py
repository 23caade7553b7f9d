"""Numbers as people read them."""

from __future__ import annotations

import math


def size(number: float) -> str:
    """Bytes in the unit that suits them: ``size(3 * 2**20)`` is ``"3 MiB"``."""
    for unit, exponent in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if number >= 2**exponent:
            amount = number / 2**exponent
            return f"{amount:.0f} {unit}" if amount >= 100 or unit != "GiB" else f"{amount:.1f} {unit}"
    return f"{number:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them: ``duration(90)`` is ``"1 min 30 s"``."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes < 10 and rest else f"{math.floor(seconds / 60 + 0.5)} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{seconds / 86400:.1f} days"


def counted(number: int, word: str) -> str:
    """``counted(1, "row")`` is ``"1 row"``, ``counted(2000, "row")`` is ``"2,000 rows"``."""
    plural = word[:-1] + "ies" if word.endswith("y") else word + ("es" if word.endswith("ch") else "s")
    return f"{number:,} {word if number == 1 else plural}"
