"""`TrainingEffect`: what a training did to the model it started from, and which place between the two was kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mmcl.evaluation.forgetting import Forgetting
from mmcl.evaluation.report.comparison_tables import compared_row
from mmcl.hub.merging.choosing import Choice
from mmcl.hub.merging.page import sweep_page, write_metric
from mmcl.hub.merging.wise_ft import Sweep
from mmcl.pages.page import Page

HEADER = ["data", "metric", "before", "after", "change", "95 % interval", "p", "p adj."]


@dataclass(frozen=True)
class TrainingEffect:
    """What a training gained where it was meant to, and what it lost elsewhere.

    Attributes:
        forgetting: from the start to the model of the run.
        finetuned: from the start to the best model as it was trained; None where that is the model of the run.
        sweep: what each place between the two is worth; None where WiSE-FT was not asked for.
        choice: the place that was taken.
        notes: what else is to be known, whole sentences.
    """

    forgetting: Forgetting
    finetuned: Forgetting | None = None
    sweep: Sweep | None = None
    choice: Choice | None = None
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[list[str]]:
        """The cells under ``HEADER``, a row a metric of each data set; with WiSE-FT the fine-tuned model's first."""
        rows = []
        if self.finetuned is not None:
            rows += _rows(self.finetuned, ", fine-tuned")
        return rows + _rows(self.forgetting, "" if self.finetuned is None else ", chosen")

    def sentence(self) -> str:
        """What WiSE-FT took and what that is worth; empty without it."""
        if self.sweep is None or self.choice is None:
            return ""
        parts = []
        for name, metric in self.sweep.metrics.items():
            values = dict(zip(self.sweep.alphas, self.sweep.values(name)))
            before, chosen, after = (write_metric(metric, values[alpha]) for alpha in (0.0, self.choice.alpha, 1.0))
            parts.append(f"{name} {chosen} (start {before}, fine-tuned {after})")
        return f"WiSE-FT took alpha {self.choice.alpha:g}, {self.choice.reason}: {'; '.join(parts)}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = {"verdict": self.forgetting.verdict(), "metrics": self.forgetting.to_metrics()}
        if self.finetuned is not None:
            found["finetuned"] = self.finetuned.to_metrics()
        if self.sweep is not None and self.choice is not None:
            found["wise_ft"] = {**self.sweep.to_dict(), "chosen": self.choice.to_dict(), "sentence": self.sentence()}
        return found | {"notes": list(self.notes)}

    def page(self, *, title: str) -> Page:
        """A page: what was gained and lost, and the trade over alpha where there was a sweep.

        Args:
            title: of the page.

        Raises:
            MissingDependencyError: matplotlib is not installed, which draws a sweep.
        """
        if self.sweep is not None and self.choice is not None:
            page = sweep_page(self.sweep, self.choice, title=title, notes=[self.sentence(), *self.notes])
        else:
            page = Page(title)
            for note in self.notes:
                page.paragraph(note)
        page.heading("Before and after training")
        for line in self.forgetting.verdict():
            page.paragraph(f"{line[0].upper()}{line[1:]}.")
        page.table(HEADER, self.rows(), caption="p by paired permutation of groups, adjusted after Holm")
        return page


def _rows(forgetting: Forgetting, words: str) -> list[list[str]]:
    return [[f"{change.name}{words}", *compared_row(one)] for change in forgetting.changes for one in change.metrics]
