"""The card of a data set that is made here: words from a template, figures measured from what was written."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from mmcl.data.cards.front_matter import dump_front_matter
from mmcl.data.cards.measured import measured_blocks, wrap
from mmcl.data.cards.vocabulary import size_category
from mmcl.data.sources.loading import load_all
from mmcl.data.summary.inspecting import inspect_splits

_TEMPLATES = Path(__file__).parent / "templates"
_TASKS = ["zero-shot-image-classification", "image-to-text"]
_FRONT_MATTER = {
    "emoji": {
        "pretty_name": "Emoji in two styles",
        "license": ["apache-2.0", "cc-by-4.0", "mit"],
        "language": [
            "en",
            "da",
            "de",
            "es",
            "fi",
            "fr",
            "hi",
            "hu",
            "it",
            "ja",
            "ko",
            "nl",
            "pl",
            "pt",
            "ru",
            "sv",
            "th",
            "uk",
            "vi",
            "zh",
        ],
        "tags": ["emoji", "contrastive learning", "image-text retrieval"],
    },
    "digits": {
        "pretty_name": "Handwritten digits with captions",
        "license": "cc-by-4.0",
        "language": ["en"],
        "tags": ["handwriting", "contrastive learning", "zero-shot classification"],
    },
    "shapes": {
        "pretty_name": "Shapes, scenes drawn by code",
        "license": "apache-2.0",
        "language": ["en"],
        "tags": ["synthetic", "compositional generalisation", "image-text retrieval"],
    },
}


def write_card(
    out: Path,
    name: str,
    *,
    versions: Mapping[str, str],
    command: str,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write ``README.md``: a card for the Hugging Face Hub with licences, credits, versions and measured figures.

    Args:
        out: the finished data set; read back for the figures.
        name: ``emoji``, ``shapes`` or ``digits``: which template.
        versions: packages that it was made of.
        command: that made it.
        progress: told what is measured.

    Returns:
        The file.
    """
    splits = load_all(out)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    inspection = inspect_splits(splits, data=name, progress=progress)
    measure = "mmcl data card OUT -o OUT/README.md --update"
    named = {split or "all": dataset for split, dataset in splits.items()}
    blocks = measured_blocks(inspection, named, command=measure, date=today)
    rows = sum(len(dataset) for dataset in splits.values())
    values = {
        **_FRONT_MATTER[name],
        "task_categories": _TASKS,
        "size_categories": [size_category(rows)],
        "configs": [{"config_name": "default", "data_files": _data_files(out, list(named))}],
    }
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), keep_trailing_newline=True)
    text = environment.get_template(f"{name}.md").render(
        front_matter=dump_front_matter(values),
        blocks={block: wrap(block, content) for block, content in blocks.items()},
        versions=versions,
        command=command,
        rows=rows,
        groups=len({group for dataset in splits.values() for group in dataset.column("group")}),
    )
    partial_file = out / ".conversion" / "card.partial"
    partial_file.write_text(text, encoding="utf-8")
    os.replace(partial_file, out / "README.md")
    return out / "README.md"


def _data_files(out: Path, splits: list[str]) -> list[dict[str, Any]]:
    """Where the Hub finds each split; one table above the splits' folders belongs to all of them."""
    table = ["metadata.jsonl"] if (out / "metadata.jsonl").is_file() else []
    return [{"split": split, "path": [f"{split}/**", *table] if table else f"{split}/**"} for split in splits]
