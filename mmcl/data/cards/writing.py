"""Writing a data card from what was measured, and measuring one again in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl.data.cards.checks import QUESTION
from mmcl.data.cards.data_files import data_configs
from mmcl.data.cards.front_matter import dump_front_matter, read_front_matter
from mmcl.data.cards.measured import BLOCKS, END_MARK, find_blocks, licence_counts, wrap
from mmcl.data.cards.vocabulary import is_language, license_id, size_category
from mmcl.data.sources.loading import parse_reference
from mmcl.data.summary.inspecting import WHOLE, Inspection
from mmcl.errors import ConfigError

DEFAULT_TASKS = ("image-to-text", "zero-shot-image-classification")


@dataclass(frozen=True)
class CardWords:
    """What a person says of the data, and no program can measure.

    Attributes:
        name: ``pretty_name``; default the last part of the data's path.
        licenses: the Hub's identifiers; default those that the rows name, else ``unknown``.
        license_name, license_link: of a licence ``other``.
        languages: codes; default those of a column ``lang``, else the guess.
        source_urls: where the data come from.
        credits: who is to be named.
        version: of the data.
        tags: further tags.
    """

    name: str | None = None
    licenses: Sequence[str] = ()
    license_name: str | None = None
    license_link: str | None = None
    languages: Sequence[str] = ()
    source_urls: Sequence[str] = ()
    credits: Sequence[str] = ()
    version: str | None = None
    tags: Sequence[str] = ()


def write_card(inspection: Inspection, blocks: Mapping[str, str], words: CardWords) -> str:
    """A whole card: front matter, measured blocks, and questions where only a person knows.

    Args:
        inspection: what was measured.
        blocks: as ``measured_blocks`` makes them.
        words: what is known besides.

    Returns:
        Markdown; ``check_card`` finds no fault in it but the questions, and keys that neither rows nor words tell.
    """
    values = _front_matter(inspection, words)
    parts = {name: wrap(name, text) for name, text in blocks.items()}
    version = f" Version {words.version}." if words.version else ""
    rows = sum(summary.rows for summary in inspection.summaries.values())
    body = [
        f"# {values['pretty_name']}",
        f"{rows:,} images with captions.{version}",
        _ask("What is this, and what is it for? Two sentences."),
        "## Figures", parts["figures"], parts["images"],
        parts["measured"],
        "## Getting and loading it", _loading(inspection), parts["examples"],
        "## Columns", parts["columns"],
        "## How it was made", _sources(words),
        _ask("Who collected the images and wrote the captions, when, and how were they chosen?"),
        _ask("By what rule are the rows split, and what makes sure that no near copy stands in two splits?"),
        "## Licences and credits", parts["licences"], _credits(words),
        _ask("May the images be shown, the data be passed on, and a model trained on them be given away?"),
        "## People and consent",
        _ask("Can persons be recognised or named? Did they agree, and how can they withdraw?"),
        "## Limits and biases",
        _ask("What is missing or too frequent, which errors are known, and what should the data not be used for?"),
        "## What was checked", parts["checked"],
    ]  # fmt: skip
    return dump_front_matter(values) + "\n\n".join(body) + "\n"


def update_card(text: str, inspection: Inspection, blocks: Mapping[str, str]) -> str:
    """The same card with its measured blocks measured again, and ``size_categories`` as the rows are now.

    Blocks that a person took out stay out; every other character stays as it is.

    Raises:
        ConfigError: the card has no measured block.
    """
    found = find_blocks(text)
    unknown = sorted(set(found) - set(BLOCKS))
    if not found or unknown:
        wrong = f"a measured block {unknown[0]!r} that mmcl does not know" if unknown else "no measured block"
        raise ConfigError(
            f"the card has {wrong}; want <!-- mmcl:measured NAME --> ... {END_MARK}, NAME one of {', '.join(BLOCKS)}"
        )
    for name, (start, end) in sorted(found.items(), key=lambda item: -item[1][0]):
        text = text[:start] + blocks[name] + "\n" + text[end:]
    return _with_size(text, size_category(sum(summary.rows for summary in inspection.summaries.values())))


def _with_size(text: str, category: str) -> str:
    """The card with this size; only the line of the key changes, and only when it is another."""
    front = read_front_matter(text)
    line = front.lines.get("size_categories")
    if front.faults or line is None or front.values["size_categories"] in ([category], category):
        return text
    lines = text.splitlines(keepends=True)
    end = line
    while end < len(lines) and lines[end].startswith((" ", "- ")):  # a list in block style goes with its key
        end += 1
    lines[line - 1 : end] = [f"size_categories: [{category}]\n"]
    return "".join(lines)


def _front_matter(inspection: Inspection, words: CardWords) -> dict[str, Any]:
    base = parse_reference(inspection.data).base
    summaries = inspection.summaries
    licenses = list(words.licenses) or list(
        dict.fromkeys(known for name in licence_counts(summaries) if (known := license_id(name)))
    )
    splits = [None if split == WHOLE else split for split in summaries]
    values: dict[str, Any] = {
        "pretty_name": words.name or Path(base.partition("?")[0]).name.replace("_", " ") or base,
        "license": (licenses[0] if len(licenses) == 1 else licenses) if licenses else "unknown",
        "license_name": words.license_name,
        "license_link": words.license_link,
        "language": list(words.languages) or _languages(inspection),
        "task_categories": list(DEFAULT_TASKS),
        "size_categories": [size_category(sum(summary.rows for summary in summaries.values()))],
        "tags": list(dict.fromkeys(["contrastive learning", "image-text retrieval", *words.tags])),
        "configs": data_configs(base, splits),
    }
    return {key: value for key, value in values.items() if value}


def _languages(inspection: Inspection) -> list[str]:
    """What a column ``lang`` says, else the guess."""
    said: list[str] = []
    guessed: list[str] = []
    for summary in inspection.summaries.values():
        column = summary.counted.get("lang") or summary.counted.get("language")
        said += [code for code in (column.top if column else {}) if is_language(code)]
        guessed += summary.languages.likely()
    return list(dict.fromkeys(said or guessed))


def _ask(question: str) -> str:
    return f"> {QUESTION} {question}"


def _loading(inspection: Inspection) -> str:
    base = parse_reference(inspection.data).base
    split = next(iter(inspection.summaries))
    data = base if split == WHOLE else f"{base}:{split}"
    lines = ["```python", "import mmcl.data", f'rows = mmcl.data.load("{data}")', "```"]
    path = Path(base).expanduser()
    if data_configs(base, [None if name == WHOLE else name for name in inspection.summaries]):
        where = path if path.is_dir() else path.parent
        lines += ["", "Or, with this card in the folder, by `datasets`:", "```python",
                  "from datasets import load_dataset", f'rows = load_dataset("{where}")', "```"]  # fmt: skip
    elif path.exists():
        lines += ["", "`datasets` cannot tell the splits apart by the names of the files; "
                  f"`mmcl data convert {base} -o OUT --format parquet` writes a copy that it can."]  # fmt: skip
    return "\n".join(lines)


def _sources(words: CardWords) -> str:
    return "\n".join(f"- Source: <{url}>" for url in words.source_urls) or "No source was named."


def _credits(words: CardWords) -> str:
    return "\n".join(f"- Credit: {credit}" for credit in words.credits) or "No credit was named."
