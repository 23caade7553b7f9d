"""The audit as a page: figures, leaks, and found rows beside their twins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from torch import Tensor

from mmcl.data.audit.check import SEVERITIES, Check
from mmcl.data.audit.report import AuditReport
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import MmclError
from mmcl.pages.page import Item, Page

EXAMPLES = 12  # of each check
_RELATED = 4  # twins shown beside a row
_CHARACTERS = 300  # of captions shown


def audit_page(report: AuditReport, splits: Mapping[str | None, ImageTextDataset], *, examples: int = EXAMPLES) -> Page:
    """A page of what was found.

    Args:
        report: the audit.
        splits: what was audited; pictures are read from it. One that cannot be read is left out of its card.
        examples: of each check; how many more there are is said.
    """
    page = Page(f"Audit of {report.data}")
    page.paragraph(_opening(report))
    page.table(["check", *(f"{name}s" for name in SEVERITIES), "a cleaned copy"], [*_count_rows(report)])
    if report.leaks:
        page.heading("What splits know of each other")
        rows = [
            [_named(leak.held_out), _named(leak.seen), leak.by, f"{len(leak.rows):,}", f"{100 * leak.share:.2f} %"]
            for leak in report.leaks
        ]
        page.table(["split", "known from", "by", "rows", "share of the split"], rows)
    for name, reason in report.not_run.items():
        page.paragraph(f"{name} was not looked for: {reason}.")
    for check in report.checks:
        found = report.of(check.name)
        if found.num_rows:
            _show(page, check, found, splits, examples)
    return page


def _opening(report: AuditReport) -> str:
    rows = sum(report.rows.values())
    parts = ", ".join(f"{_named(split)} {number:,}" for split, number in report.rows.items())
    counts = ", ".join(f"{report.count(name):,} {name}s" for name in SEVERITIES)
    flagged = sum(len(part) for part in report.flagged().values())
    share = 100 * flagged / rows if rows else 0.0
    return f"{rows:,} rows ({parts}): {counts}. {flagged:,} rows ({share:.2f} %) have an error or a warning."


def _count_rows(report: AuditReport) -> list[list[str]]:
    rows = []
    for check in report.checks:
        counts = [report.count(name, check.name) for name in SEVERITIES]
        if any(counts):
            becomes = "leaves them out" if check.action == "drop" else "keeps them"
            rows.append([check.name, *(f"{number:,}" if number else "" for number in counts), becomes])
    return rows or [["nothing was found", "", "", "", ""]]


def _show(
    page: Page, check: Check, found: pa.Table, splits: Mapping[str | None, ImageTextDataset], examples: int
) -> None:
    page.heading(f"{check.name}: {found.num_rows:,} found")
    page.paragraph(check.explanation)
    for finding in found.slice(0, examples).to_pylist():
        answers = [_item(splits, other, other["place"]) for other in finding["related"][:_RELATED]]
        title = f"{finding['place']}: {finding['detail']}"
        page.card(_item(splits, finding, title), answers, note=f"{finding['severity']}; {_named(finding['split'])}")
    if found.num_rows > examples:
        page.paragraph(f"... and {found.num_rows - examples:,} more; --list FILE has them all.")


def _item(splits: Mapping[str | None, ImageTextDataset], finding: Mapping[str, Any], title: str) -> Item:
    if finding["row"] is None:
        return Item(title[:_CHARACTERS])
    dataset = splits[finding["split"]]
    captions = " | ".join(dataset.texts(finding["row"]))
    return Item(f"{title[:_CHARACTERS]} \u2014 {captions[:_CHARACTERS]}", _picture(dataset, finding["row"]))


def _picture(dataset: ImageTextDataset, row: int) -> Tensor | None:
    try:
        return dataset.images.read(row)
    except MmclError:
        return None


def _named(split: str | None) -> str:
    return split or "all rows"
