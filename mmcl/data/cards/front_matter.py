"""The YAML between the ``---`` lines of a card: read with its line numbers, checked, written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mmcl.data.cards.vocabulary import LICENSES, SIZES, TASKS, is_language

REQUIRED_KEYS = ("pretty_name", "license", "language", "task_categories", "size_categories")
# (value, all values) -> what is wrong with it, a sentence each.
Check = Callable[[Any, Mapping[str, Any]], Iterable[str]]

_FRONT = re.compile(r"\A\ufeff?---[ \t]*\n(.*?)^---[ \t]*$\n?", flags=re.DOTALL | re.MULTILINE)
_FILE_NAME = re.compile(r"[\w./*?\[\]{},@+=-]+")


@dataclass(frozen=True)
class Fault:
    """Something that a card lacks or has wrong.

    Attributes:
        line: where, from 1.
        about: the key or section.
        problem: what is wrong, and what is wanted.
    """

    line: int
    about: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.about}: {self.problem}"


@dataclass(frozen=True)
class FrontMatter:
    """A card taken apart.

    Attributes:
        values: the keys of its front matter.
        lines: key -> its line in the file.
        body_line: the line that the text behind it begins at.
        body: that text.
        faults: why it could not be read; empty when it could.
    """

    values: dict[str, Any]
    lines: dict[str, int]
    body_line: int
    body: str
    faults: tuple[Fault, ...] = ()


def read_front_matter(text: str) -> FrontMatter:
    """Take a card apart; what cannot be read is a fault, never an exception."""
    found = _FRONT.match(text)
    if found is None:
        fault = Fault(1, "front matter", "there is none; the card begins with a line ---, YAML, and a line ---")
        return FrontMatter({}, {}, 1, text, (fault,))
    body, body_line = text[found.end() :], text[: found.end()].count("\n") + 1
    try:
        # A model card lists a thousand metrics: the C parser reads them ten times as fast.
        values = yaml.load(found[1], Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = 2 if mark is None else mark.line + 2
        fault = Fault(line, "front matter", f"is no YAML ({getattr(error, 'problem', None) or 'cannot be read'})")
        return FrontMatter({}, {}, body_line, body, (fault,))
    if not isinstance(values, dict):
        return FrontMatter({}, {}, body_line, body, (Fault(2, "front matter", "holds no keys; want KEY: VALUE lines"),))
    lines = {}
    for number, line in enumerate(found[1].splitlines(), start=2):
        key = re.match(r"[\"']?([\w.-]+)[\"']?\s*:", line)
        if key and key[1] in values:
            if key[1] in lines:
                return FrontMatter(values, lines, body_line, body, (Fault(number, key[1], "stands twice"),))
            lines[key[1]] = number
    return FrontMatter(values, lines, body_line, body)


def check_front_matter(
    front: FrontMatter,
    *,
    required: Sequence[str] = REQUIRED_KEYS,
    checks: Mapping[str, Check] | None = None,
    card_data: str = "DatasetCardData",
) -> list[Fault]:
    """Everything in a card's front matter that the Hub would refuse or not understand, and what is missing.

    Args:
        front: the card taken apart.
        required: keys that must be there; default a data card's.
        checks: key -> what is wrong with its value; default ``DATA_CHECKS``.
        card_data: the class of huggingface_hub that reads such a card, asked where nothing else is wrong.
    """
    if front.faults:
        return list(front.faults)
    faults = [Fault(2, key, "is missing from the front matter") for key in required if not front.values.get(key)]
    for key, check in (DATA_CHECKS if checks is None else checks).items():
        if front.values.get(key):
            line = front.lines.get(key, 2)
            faults += [Fault(line, key, problem) for problem in check(front.values[key], front.values)]
    if not faults:
        faults += _check_with_hub_library(front, card_data)
    return faults


def dump_front_matter(values: Mapping[str, Any], *, flow: bool = False) -> str:
    """The front matter with its ``---`` lines, keys in their order; ``flow``: innermost lists on one line."""
    style = None if flow else False
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1_000, default_flow_style=style)
    return f"---\n{text}---\n"


def _check_with_hub_library(front: FrontMatter, card_data: str) -> list[Fault]:
    import huggingface_hub

    try:
        getattr(huggingface_hub, card_data)(**front.values).to_yaml()
    except (TypeError, ValueError, AttributeError) as error:
        return [Fault(2, "front matter", f"huggingface_hub cannot read it ({error})")]
    return []


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _strings(value: Any, *, of_one: bool) -> Iterable[str]:
    if not of_one and not isinstance(value, list):
        yield f"want a list, got {value!r}; write [{value}]"
    for item in _as_list(value):
        if not isinstance(item, str):
            # YAML reads the country code of Norway as a boolean.
            hint = '; put it in quotes: "no"' if item is False else ""
            yield f"want text, got {item!r}{hint}"


def _unknown(value: Any, known: Iterable[str], what: str) -> Iterable[str]:
    known = sorted(known)
    for item in _as_list(value):
        if isinstance(item, str) and item not in known:
            near = difflib.get_close_matches(item.lower(), known, n=1)
            yield f"{item!r} is no {what} of the Hub" + (f"; did you mean {near[0]!r}?" if near else "")


def _check_license(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    yield from _strings(value, of_one=True)
    yield from _unknown(value, LICENSES, "licence")
    if "other" in _as_list(value) and not (values.get("license_name") and values.get("license_link")):
        yield "'other' wants license_name and license_link (an address, or LICENSE) beside it"


def _check_language(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    yield from _strings(value, of_one=False)
    for item in _as_list(value):
        if isinstance(item, str) and not is_language(item):
            yield f"{item!r} is no ISO 639-1 code such as en, nor three letters, 'code' or 'multilingual'"


def _check_tasks(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    yield from _strings(value, of_one=False)
    yield from _unknown(value, TASKS, "task")


def _check_sizes(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    yield from _strings(value, of_one=False)
    yield from _unknown(value, SIZES, "size category")


def _check_name(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    if not isinstance(value, str):
        yield f"want text, got {value!r}"


def _check_tags(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    yield from _strings(value, of_one=False)


def _check_configs(value: Any, values: Mapping[str, Any]) -> Iterable[str]:
    if not isinstance(value, list) or not all(isinstance(config, dict) for config in value):
        yield "want a list of config_name and data_files"
        return
    for config in value:
        if not config.get("config_name"):
            yield "a config has no config_name; 'default' is usual"
        files = config.get("data_files")
        if isinstance(files, list) and all(isinstance(entry, dict) for entry in files):
            for entry in files:
                if not entry.get("split") or not entry.get("path"):
                    yield f"data_files wants split and path, got {entry}"
                elif not re.fullmatch(r"\w+(\.\w+)*", str(entry["split"])):
                    yield f"the split {entry['split']!r} is no name that `datasets` takes (letters, digits, _)"
                elif not all(_FILE_NAME.fullmatch(str(path)) for path in _as_list(entry["path"])):
                    yield f"the path {entry['path']!r} is no pattern of files relative to the card"
        elif files is not None and not isinstance(files, (str, list, dict)):
            yield f"data_files is {files!r}; want a list of split and path"


DATA_CHECKS: dict[str, Check] = {
    "pretty_name": _check_name,
    "license": _check_license,
    "language": _check_language,
    "task_categories": _check_tasks,
    "size_categories": _check_sizes,
    "tags": _check_tags,
    "configs": _check_configs,
}
