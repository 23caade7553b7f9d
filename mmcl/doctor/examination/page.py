"""An examination as a page: the diagnosis, findings, and what is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmcl.doctor.examination.verdict import Examination
from mmcl.errors import MissingDependencyError
from mmcl.pages.figures import draw_lines
from mmcl.pages.page import Page


def examination_page(examination: Examination, records: Sequence[Mapping[str, Any]] = ()) -> Page:
    """A page of what was found.

    Args:
        examination: the findings.
        records: the lines of ``metrics.jsonl``; their loss and gradient norm are drawn where matplotlib is there.
    """
    page = Page(f"Examination of {examination.run}")
    page.paragraph(examination.diagnosis)
    page.paragraph(f"The run is {examination.state}, at step {examination.step:,} of {examination.total_steps:,}.")
    if examination.findings:
        page.heading("Findings")
        rows = [[f.severity, f.title, f.evidence, f.next_step] for f in examination.findings]
        page.table(["severity", "what", "evidence", "next step"], rows)
    for name, label in (("loss", "loss"), ("grad_norm", "gradient norm")):
        _draw(page, records, name, label)
    page.heading("What is well")
    page.table(["looked at", "found"], [list(entry) for entry in examination.well])
    if examination.not_made:
        page.table(["not looked at", "why"], [list(entry) for entry in examination.not_made])
    if examination.facts:
        page.heading("Numbers")
        page.table(["what", "value"], [[name.replace("_", " "), _shown(v)] for name, v in examination.facts.items()])
    return page


def _draw(page: Page, records: Sequence[Mapping[str, Any]], name: str, label: str) -> None:
    points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
    if len(points) < 2:
        return
    lines = {label: tuple(zip(*points))}
    chance = [(record["step"], record["chance_loss"]) for record in records if record.get("chance_loss") is not None]
    if name == "loss" and len(chance) > 1:
        lines["chance"] = tuple(zip(*chance))
    try:
        page.figure(draw_lines(lines, x_label="step", y_label=label), caption=f"The {label} over the run.")
    except MissingDependencyError:
        return  # the page says all in tables; the drawing is an addition


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
