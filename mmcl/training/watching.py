"""The doctor's place beside the trainer: which steps it looks at, and where its findings go."""

from __future__ import annotations

import time
from typing import Any

from mmcl.batch import Batch
from mmcl.config import Recipe
from mmcl.doctor.finding import Finding
from mmcl.doctor.live.live_doctor import LiveDoctor
from mmcl.doctor.live.not_finite import Source
from mmcl.doctor.live.stopped import finding_of_stop
from mmcl.doctor.live.vital_signs import VitalSigns, is_due, loss_counts_groups
from mmcl.logs import get_logger
from mmcl.training.gather import rank
from mmcl.training.protocols import Objective
from mmcl.training.runs import RunFolder

log = get_logger(__name__)


class Watching:
    """Takes vital signs, shows the doctor every line of ``metrics.jsonl``, and tells each finding once.

    A finding is one log line and one line of ``findings.jsonl``. Only the main process looks; it asks no other. The
    doctor keeps no state in checkpoints: a resumed run shows it again the lines that were written.

    Args:
        recipe: with ``train.doctor``; false: no signs, no findings but those of a run that is stopped.
        run: the run folder.
        objective: as the run starts.
        total_steps: of the run.

    Attributes:
        findings: all so far.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, objective: Objective, *, total_steps: int) -> None:
        self._run, self._total_steps, self._log_every = run, total_steps, recipe.train.log_every
        self._learning_rate = recipe.optimizer.learning_rate
        self._doctor = self._signs = None
        if recipe.train.doctor and rank() == 0:
            self._doctor = LiveDoctor(recipe)
            self._signs = VitalSigns(objective, groups_count=loss_counts_groups(recipe.loss))
        self.findings: list[Finding] = []
        self.skipped_updates = 0
        self._waited = self._worked = 0.0
        self._steps, self._mark = 0, time.perf_counter()

    # -- around a step -------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """A batch is waited for from now on."""
        self._mark = time.perf_counter()

    def begin(self, batch: Batch, *, step: int) -> None:
        """A batch has come.

        Args:
            batch: this process's part.
            step: the number of the step it is for, from 1.
        """
        now = time.perf_counter()
        self._waited, self._mark = self._waited + now - self._mark, now
        if self._signs is not None and is_due(step, log_every=self._log_every, total_steps=self._total_steps):
            self._signs.begin(batch)

    def before_update(self, grad_norm: float) -> None:
        """Gradients are there, clipped; ``grad_norm`` is the norm they had before."""
        if self._signs is not None:
            self._signs.before_update(grad_norm)

    def after_update(self) -> dict[str, Any]:
        """The weights have changed: what is added to the step's record."""
        now = time.perf_counter()
        self._worked, self._steps = self._worked + now - self._mark, self._steps + 1
        return {} if self._signs is None else self._signs.after_update()

    def times(self) -> dict[str, Any]:
        """Seconds a step since they were last asked for: waiting for its batch, and computing."""
        if self._signs is None or not self._steps:
            return {}
        signs: dict[str, Any] = {
            "loader_seconds": round(self._waited / self._steps, 6),
            "step_seconds": round(self._worked / self._steps, 6),
        }
        if self.skipped_updates:
            signs["skipped_updates"] = self.skipped_updates
        self._waited, self._worked, self._steps = 0.0, 0.0, 0
        return signs

    # -- findings ------------------------------------------------------------------------------------------------

    def observe(self, record: dict[str, Any]) -> None:
        """Show the doctor a line that was written to ``metrics.jsonl``."""
        if self._doctor is not None:
            for finding in self._doctor.observe(record):
                self.tell(finding, step=record["step"])

    def finish(self, *, step: int) -> None:
        """Training is over: what only can be said now."""
        if self._doctor is not None:
            for finding in self._doctor.finish():
                self.tell(finding, step=step)

    def stopped(self, complaint: str, *, loss: float, source: Source | None, step: int) -> None:
        """Training is stopped: why, as far as is known.

        Args:
            complaint: a sentence.
            loss: of the step.
            source: of what is not finite; None: the loss had diverged.
            step: the step's number.
        """
        if rank() == 0:
            largest = 0.0 if self._doctor is None else self._doctor.course.largest_update
            finding = finding_of_stop(
                complaint, loss=loss, source=source, largest_update=largest, learning_rate=self._learning_rate
            )
            self.tell(finding, step=step)

    def tell(self, finding: Finding, *, step: int) -> None:
        """Log a finding and write it down, unless its cause was told before."""
        if any(told.cause == finding.cause for told in self.findings):
            return
        self.findings.append(finding)
        self._run.append_finding({"step": step, **finding.to_dict()})
        write = log.warning if finding.is_alarm else log.info
        write("doctor: step %d: %s. %s %s", step, finding.title, finding.evidence, finding.next_step)

    def resume(self, *, step: int) -> None:
        """Go on from a checkpoint: what was said up to its step is known, what was said behind it is forgotten.

        The lines behind that step must be gone from ``metrics.jsonl``.
        """
        self._run.drop_findings_after(step)
        self.findings = [Finding.from_dict(record) for record in self._run.read_findings() if record["step"] <= step]
        for record in self._run.read_metrics() if self._doctor is not None else ():
            self.skipped_updates = record.get("skipped_updates", self.skipped_updates)
            self.observe(record)
