"""What may stand in a card that everybody reads: names without this machine's folders, texts without tokens."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mmcl.data.sources.built_in import is_built_in
from mmcl.data.sources.loading import parse_reference
from mmcl.repos.portable import portable_text
from mmcl.repos.secret_finding import find_secrets, redact

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_private(text: str) -> list[tuple[int, str]]:
    """(line, what) of the local paths and secrets of a text; of a secret its kind alone is told.

    Example:
        >>> find_private("title\\nfrom /home/someone/data")
        [(2, 'a path of one machine')]
    """
    found = [(finding.line, finding.kind) for finding in find_secrets(text)]
    for number, line in enumerate(text.splitlines(), start=1):
        whole = f"| {line}\n"  # as a part of a longer text, which a line that begins with ./ is too
        if portable_text(whole) != whole:
            found.append((number, "a path of one machine"))
    return sorted(found)


def public_text(text: str) -> str:
    """A text without secrets, local paths by their last part.

    Example:
        >>> public_text("from /home/someone/data/emoji:test, hf_abcdefghijk")
        'from emoji:test, ***'
    """
    return redact(portable_text(text))


def public_value(value: Any) -> Any:
    """The same for the texts in nested lists and dictionaries."""
    if isinstance(value, dict):
        return {key: public_value(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [public_value(inner) for inner in value]
    return public_text(value) if isinstance(value, str) else value


def data_name(reference: str) -> str:
    """What a card calls data: the built-in ones and those of the Hub as they are, others by their last part.

    Example:
        >>> data_name("/home/someone/data/emoji?train=0.8:test"), data_name("shapes?train=96")
        ('emoji', 'shapes?train=96')
    """
    base = parse_reference(reference).base
    path, question, options = base.partition("?")
    if is_built_in(path) or is_hub_data(reference):
        return public_text(path + question + options)
    name = _last_part(path.removeprefix("vectors:"))
    return public_text(re.sub(r"\.(ya?ml|csv|tsv|jsonl|parquet|json|tar)$", "", name))


def is_hub_data(reference: str) -> bool:
    """Whether data are a data set of the Hub that this machine has fetched, and no folder here.

    A name such as ``data/emoji`` is a folder as well as an id: an id it is only where the Hub's cache holds it.
    """
    name = parse_reference(reference).base.partition("?")[0].partition("@")[0]
    if not is_hub_id(name) or os.path.exists(name):
        return False
    from huggingface_hub import constants

    folder = "datasets--" + name.replace("/", "--")
    return (Path(constants.HF_HUB_CACHE) / folder).is_dir()


def is_hub_id(name: str) -> bool:
    """Whether a name has the form ``owner/name``."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name and not name.endswith(".git")


def tower_name(name: str) -> str:
    """What a card calls a tower: without the folders of this machine and of installed packages.

    Example:
        >>> tower_name("timm:resnet50?checkpoint=/home/someone/weights.pth"), tower_name("package:a_model/model")
        ('timm:resnet50 (weights.pth)', 'a_model')
    """
    if name.startswith("package:"):
        return name.removeprefix("package:").partition("/")[0]
    head, _, checkpoint = public_text(name).partition("?checkpoint=")
    if os.path.isdir(head):
        head = _last_part(head)
    return f"{head} ({_last_part(checkpoint)})" if checkpoint else head


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part and part != "~"]
    return parts[-1] if parts else path
