"""Pieces of Markdown: tables, numbers as people write them, questions."""

from __future__ import annotations

from collections.abc import Sequence

from mmcl.data.cards.checks import QUESTION


def table(header: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: bool = True) -> str:
    """A table; the first column to the left, the others to the right unless they are words. Empty without rows.

    Example:
        >>> table(["a", "b"], [["x|y", 1]]).splitlines()[-1]
        '| x\\\\|y | 1 |'
    """
    if not rows:
        return ""
    marks = ["---", *("---:" if numbers else "---" for _ in header[1:])]
    return "\n".join(_line(row) for row in (header, marks, *rows))


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(" ".join(str(cell).split()).replace("|", "\\|") for cell in cells) + " |"


def percent(value: float) -> str:
    """A fraction as a percentage.

    Example:
        >>> percent(0.2217), percent(0.0002)
        ('22.2 %', '0.02 %')
    """
    return f"{100 * value:.2f} %" if 0 < abs(value) < 0.0005 else f"{100 * value:.1f} %"


def count(value: float) -> str:
    """A number of things, such as 27.7 million parameters as ``27.7 M``; small ones as they are.

    Example:
        >>> count(27_734_272), count(686)
        ('27.7 M', '686')
    """
    for size, letter in ((1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.1f} {letter}"
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration(23.7), duration(5400)
        ('24 s', '1 h 30 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def ask(question: str) -> str:
    """What only a person can answer, marked so that checks find it."""
    return f"> {QUESTION} {question}"


def join(parts: Sequence[str]) -> str:
    """Blocks with an empty line between them; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)
