"""The measured blocks of a card, in Markdown between marks, so that they can be measured again in place."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from mmcl.data.cards.vocabulary import asks_credit, license_id
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.summary.figures import column_rows, image_section, percent, sections, value_rows
from mmcl.data.summary.inspecting import Inspection
from mmcl.data.summary.summarising import Summary, sample_rows

BLOCKS = ("figures", "images", "measured", "columns", "examples", "licences", "checked")
LICENCE_COLUMNS = ("licence", "license")
EXAMPLES = 5
_SHOWN_LABELS = 20
_SHOWN_CHARACTERS = 120
_HASHED_ROWS = 65_536  # that are Python objects at a time


def measured_blocks(
    inspection: Inspection, datasets: Mapping[str, ImageTextDataset], *, command: str, date: str
) -> dict[str, str]:
    """Block name -> its Markdown, without the marks.

    Args:
        inspection: what was measured.
        datasets: the same splits: examples and fingerprints are taken from them.
        command: that measures them again.
        date: of the measurement, as it is to be written.
    """
    summaries = inspection.summaries
    fingerprints = {
        split: content_fingerprint(dataset, inspection.scans.get(split)) for split, dataset in datasets.items()
    }
    listed = "; ".join(f"{split} {of} `{digest}`" for split, (digest, of) in fingerprints.items())
    return {
        "figures": _figures(summaries),
        "images": _images(inspection),
        "measured": f"Measured on {date} by `{command}`. Fingerprints: {listed}.",
        "columns": _columns(summaries),
        "examples": _examples(datasets),
        "licences": _licences(summaries),
        "checked": _checked(inspection),
    }


def content_fingerprint(dataset: ImageTextDataset, scan: pa.Table | None) -> tuple[str, str]:
    """A hash of what the data hold, wherever they lie, and what it is of.

    Args:
        dataset: whose captions are hashed, row by row.
        scan: ``scan_images`` of every row: the encoded images are hashed too. One of a sample, or None: they are not.
    """
    digest = hashlib.sha256()
    column = dataset.table["texts"]
    for start in range(0, len(dataset), _HASHED_ROWS):
        for texts in column.slice(start, _HASHED_ROWS).to_pylist():
            digest.update("\x1f".join(texts).encode() + b"\x1e")
    if scan is None or scan.num_rows < len(dataset):
        return digest.hexdigest()[:16], "captions"
    for value in scan["digest"].to_pylist():
        digest.update(value or b"-")
    return digest.hexdigest()[:16], "captions and images"


def begin_mark(name: str) -> str:
    """The line before a measured block."""
    return f"<!-- mmcl:measured {name} -->"


END_MARK = "<!-- mmcl:end -->"


def wrap(name: str, text: str) -> str:
    """A block between its marks."""
    return f"{begin_mark(name)}\n{text}\n{END_MARK}"


def find_blocks(text: str) -> dict[str, tuple[int, int]]:
    """Block name -> where its text begins and ends; a mark without a name is ``figures``."""
    marks = re.compile(
        rf"^<!-- mmcl:measured(?: (\w+))? -->[ \t]*\n(.*?)^{re.escape(END_MARK)}", re.DOTALL | re.MULTILINE
    )
    return {found[1] or "figures": found.span(2) for found in marks.finditer(text)}


def markdown_table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table of the kind GitHub and the Hub show; cells keep to one line."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    text = " ".join(str(value).split())
    text = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    # A caption must not become a link, a tag, or the end of its cell.
    return re.sub(r"([\\|<>\[\]`*]|(?<!\w)_|_(?!\w))", r"\\\1", text) if text != "---" else text


def _figures(summaries: Mapping[str, Summary]) -> str:
    rows: list[Sequence[object]] = []
    for section in sections(summaries, images=False):
        rows += [[f"{section.title}: {what}" if section.title != "Rows" else what, *cells]
                 for what, *cells in section.rows]  # fmt: skip
    tables = [markdown_table(["", *summaries], rows)]
    labels = value_rows({split: summary.labels for split, summary in summaries.items()}, shown=_SHOWN_LABELS)
    if labels:
        tables.append(markdown_table(["label", *summaries], labels))
    return "\n\n".join(tables)


def _images(inspection: Inspection) -> str:
    section = image_section(inspection.summaries)
    if not section.rows:
        return "No image was looked at."
    table = markdown_table(["", *inspection.summaries], section.rows)
    sampled = [split for split, summary in inspection.summaries.items()
               if summary.images and summary.images.looked_at < summary.rows]  # fmt: skip
    return table + (f"\n\nOf {', '.join(sampled)} a sample was looked at, drawn by lot." if sampled else "")


def _columns(summaries: Mapping[str, Summary]) -> str:
    rows = [["texts", "list of strings", *["100.0 %"] * len(summaries)], *column_rows(summaries)]
    return markdown_table(["column", "type", *(f"filled in {split}" for split in summaries)], rows)


def _examples(datasets: Mapping[str, ImageTextDataset]) -> str:
    split, dataset = next(iter(datasets.items()))
    header = [name for name in ("id", "texts", "label", "domain") if name in dataset.table.column_names]
    rows = []
    for row in sample_rows(len(dataset), EXAMPLES, seed=0).tolist():
        cells = [dataset.value(name, row) for name in header]
        rows.append([" / ".join(cell) if isinstance(cell, list) else cell or "" for cell in cells])
    return f"Rows of {split}, drawn by lot:\n\n{markdown_table(header, rows)}"


def _licences(summaries: Mapping[str, Summary]) -> str:
    counts = licence_counts(summaries)
    if not counts:
        return "No column holds licences of single rows."
    total = sum(summary.rows for summary in summaries.values())
    rows = [
        [name, license_id(name) or "not an identifier of the Hub", f"{count:,} ({percent(count / total)})",
         "yes" if asks_credit(name) else "not known: read the licence" if license_id(name) is None else "no"]
        for name, count in counts.items()
    ]  # fmt: skip
    return markdown_table(["licence of a row", "on the Hub", "rows", "asks for credit or its notice"], rows)


def licence_counts(summaries: Mapping[str, Summary]) -> dict[str, int]:
    """Licence -> rows that name it in a column ``licence`` or ``license``, most frequent first."""
    totals: dict[str, int] = {}
    for summary in summaries.values():
        for name, count in next((summary.counted[c].top for c in LICENCE_COLUMNS if c in summary.counted), {}).items():
            totals[name] = totals.get(name, 0) + count
    return dict(sorted(totals.items(), key=lambda pair: (-pair[1], pair[0])))


def _checked(inspection: Inspection) -> str:
    summaries = inspection.summaries
    rows = []
    for o in inspection.overlaps:
        groups = "not known: no column group" if o.groups is None else f"{o.groups:,}"
        images = _shared_images(inspection, o.first, o.second)
        rows.append([f"{o.first} and {o.second}", f"{o.captions:,}", f"{o.rows:,}", groups, images])
    lines = [markdown_table(["splits", "captions of both", "rows of the second with one", "groups of both",
                             "images of both, to the byte"], rows)] if rows else []  # fmt: skip
    unreadable = {split: s.images.unreadable for split, s in summaries.items() if s.images}
    lines.append(
        "- Unreadable images among those looked at: "
        + (", ".join(f"{split} {number:,}" for split, number in unreadable.items()) or "none was looked at") + "."
    )  # fmt: skip
    skipped = {split: summary.skipped for split, summary in summaries.items() if summary.skipped}
    lines.append(f"- Rows left out by the reader: {', '.join(f'{s} {n:,}' for s, n in skipped.items()) or 'none'}.")
    lines.append(
        "- **Not checked here**: near-duplicate images (scaled, cropped, compressed again), captions that do not "
        "belong to their image, content, and whether what `licence` says is true. `mmcl data audit` looks for the "
        "first two."
    )
    table = [lines.pop(0), ""] if rows else []
    return "\n".join([*table, *lines])


def _shared_images(inspection: Inspection, first: str, second: str) -> str:
    """How many different images stand in two splits; only known where every image of both was looked at."""
    for split in (first, second):
        summary = inspection.summaries[split]
        if summary.images is None or summary.images.looked_at < summary.rows:
            return "not checked: not all were looked at"
    digests = [set(inspection.scans[split]["digest"].drop_null().to_pylist()) for split in (first, second)]
    return f"{len(digests[0] & digests[1]):,}"
