"""`LiveDoctor`: tells, from a run's records as they come, what is wrong with it, each cause once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcl.config import Recipe
from mmcl.doctor.finding import Finding
from mmcl.doctor.live import rules, stuck
from mmcl.doctor.live.course import Course

# In this order; where a fault is found, the rules of quality are left aside: they would tell what follows from it.
FAULT_RULES: tuple[Callable[[Course], Finding | None], ...] = (
    stuck.inputs_do_not_vary,
    stuck.nothing_trains,
    stuck.stuck,
)
QUALITY_RULES: tuple[Callable[[Course], Finding | None], ...] = (
    rules.loss_rose,
    rules.gradients,
    rules.false_negatives,
    rules.temperature,
    rules.fixed_temperature,
    rules.dimensional_collapse,
    rules.modality_gap,
    rules.overfitting,
    rules.slow_loader,
)


class LiveDoctor:
    """Takes the lines of ``metrics.jsonl`` in, in order, and tells findings.

    What it says depends on the lines alone: shown the lines of a run that is resumed, it goes on where it was, and
    shown those of a finished run, it says what it said then.

    Args:
        recipe: what is run.

    Attributes:
        findings: all so far, in the order they were found.

    Example:
        >>> from mmcl.config import Recipe
        >>> doctor = LiveDoctor(Recipe(data={"path": "shapes"}))
        >>> doctor.observe({"step": 1, "epoch": 0.1, "loss": 4.9, "chance_loss": 4.85, "logit_scale": 14.3})
        []
    """

    def __init__(self, recipe: Recipe) -> None:
        self.course = Course(recipe)
        self.findings: list[Finding] = []

    def observe(self, record: Mapping[str, Any]) -> list[Finding]:
        """Take a line in; what is found by it.

        Args:
            record: of a step or of an evaluation; numbers that JSON could not hold are None.
        """
        self.course.add(record)
        return self._judge() if self.course.steps else []

    def finish(self) -> list[Finding]:
        """The run is over: what can be said now, though it could not have been said before."""
        self.course.finished = True
        return self._judge() if self.course.steps else []

    def _judge(self) -> list[Finding]:
        told = {finding.cause for finding in self.findings}
        is_ill = any(finding.severity == "fault" for finding in self.findings)
        new: list[Finding] = []
        for rule in () if is_ill else (*FAULT_RULES, *QUALITY_RULES):
            finding = rule(self.course)
            if finding is None or finding.cause in told:
                continue
            told.add(finding.cause)
            new.append(finding)
            if finding.severity == "fault":
                break
        self.findings += new
        return new


def live_findings(records: Sequence[Mapping[str, Any]], recipe: Recipe) -> list[Finding]:
    """What the live doctor says, or would have said, of a run.

    Args:
        records: the lines of ``metrics.jsonl``, in order; those of runs without signs say less.
        recipe: the run's.

    Returns:
        The findings, in the order they were found; empty for no records.
    """
    doctor = LiveDoctor(recipe)
    for record in records:
        doctor.observe(record)
    doctor.finish()
    return doctor.findings
