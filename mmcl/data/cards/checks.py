"""What a data card must have: valid front matter, every section, answered questions, links that lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from mmcl.data.cards.front_matter import Fault, FrontMatter, check_front_matter, read_front_matter

# Sections that every card has, and what each is for.
REQUIRED_SECTIONS = {
    "Figures": "rows, captions and labels of each split",
    "Getting and loading it": "where the data come from, their layout, how they are loaded",
    "Columns": "what each column holds",
    "How it was made": "who collected images and captions, when, and by what rule they were split",
    "Licences and credits": "under which terms, and who is to be named",
    "People and consent": "whether persons can be recognised, and whether they agreed",
    "Limits and biases": "what is missing or too frequent, and what not to use the data for",
    "What was checked": "duplicates, leakage between splits, unreadable images; and what was not",
}
QUESTION = "**Please answer:**"
_HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
_LINK = re.compile(r"(?<!\\)!?\[[^\]\n]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_LEAST_WORDS = 3

__all__ = ["QUESTION", "REQUIRED_SECTIONS", "Fault", "check_card"]


def check_card(
    text: str,
    *,
    folder: Path | None = None,
    sections: Mapping[str, str] = REQUIRED_SECTIONS,
    front_matter: Callable[[FrontMatter], list[Fault]] = check_front_matter,
) -> list[Fault]:
    """Everything that a data card lacks or has wrong, by line.

    Args:
        text: the card.
        folder: where it lies: relative links must lead to files there. None: links are not followed.
        sections: that it must have, and what each is for; other kinds of cards have their own.
        front_matter: what checks its front matter; other kinds of cards have their own.

    Example:
        >>> [str(fault) for fault in check_card("# Pairs")][:1]
        ['line 1: front matter: there is none; the card begins with a line ---, YAML, and a line ---']
    """
    front = read_front_matter(text)
    faults = front_matter(front)
    body = _without_code(front.body).splitlines()
    faults += _check_sections(body, front.body_line, sections)
    for number, line in enumerate(body, start=front.body_line):
        if QUESTION in line:
            faults.append(Fault(number, _section_at(body, number - front.body_line), "a question is not answered yet"))
        if folder is not None:
            faults += [Fault(number, "link", f"{link} leads to no file in {folder}") for link in _dead(line, folder)]
    return sorted(faults, key=lambda fault: fault.line)


def _without_code(body: str) -> str:
    """The text with fenced code emptied: what stands there is no heading and no link."""
    return re.sub(
        r"^(```+|~~~+)[^\n]*\n.*?^\1[^\n]*$",
        lambda found: "\n" * found[0].count("\n"),
        body,
        flags=re.DOTALL | re.MULTILINE,
    )


def _check_sections(body: list[str], first_line: int, sections: Mapping[str, str]) -> list[Fault]:
    headings = [(at, *found.groups()) for at, line in enumerate(body) if (found := _HEADING.match(line))]
    faults = []
    if not any(len(level) == 1 for _, level, _ in headings):
        faults.append(Fault(first_line, "title", "there is none; want a line such as # Red apples"))
    titles = {title.casefold(): at for at, level, title in headings if len(level) == 2}
    for section, holds in sections.items():
        at = titles.get(section.casefold())
        if at is None:
            faults.append(Fault(first_line + len(body), section, f"the section is missing; it says {holds}"))
            continue
        end = min((other for other, level, _ in headings if other > at and len(level) <= 2), default=len(body))
        inside = re.sub(r"<!--.*?-->", "", "\n".join(body[at + 1 : end]), flags=re.DOTALL)
        if len(inside.split()) < _LEAST_WORDS:
            faults.append(Fault(first_line + at, section, f"the section is empty; it says {holds}"))
    return faults


def _section_at(body: list[str], at: int) -> str:
    for line in reversed(body[: at + 1]):
        found = _HEADING.match(line)
        if found:
            return found[2]
    return "text"


def _dead(line: str, folder: Path) -> list[str]:
    links = [link for link in _LINK.findall(line) if not re.match(r"[a-z][a-z0-9+.-]*:|#", link, re.IGNORECASE)]
    return [link for link in links if not (folder / link.partition("#")[0]).exists()]
