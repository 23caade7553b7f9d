"""Checks of the reading of batches, and of how the run ended."""

from __future__ import annotations

from mmcl.doctor.examination.subject import Subject
from mmcl.doctor.finding import Finding

SLOWER = 1.5  # times what the model needs for a batch
NOTICEABLE = 0.05  # seconds of a batch
SKIPPED = 0.02  # share of rows


def loader(subject: Subject) -> list[Finding]:
    """Batches that take longer to read than to learn from."""
    timing = subject.timing
    if timing is None or timing.died:
        return []
    read = timing.read / max(1, timing.workers)
    ratio = read / max(timing.model, 1e-9)
    if ratio < SLOWER or read < NOTICEABLE:
        return []
    data = subject.recipe.data
    return [
        Finding(
            "slow_loader",
            "warning",
            f"A batch takes {timing.read:.2f} s to read ({timing.workers or 'no'} reader processes) and "
            f"{timing.model:.2f} s to learn from: the model waits {100 * read / (read + timing.model):.0f} % of the "
            f"time.",
            ratio,
            SLOWER,
            f"Make the images smaller once (mmcl data convert {data.path} ... --resize), read with more processes "
            f"(data.workers={max(2, 2 * timing.workers)}), set data.decode=scaled, or freeze the image tower, whose "
            f"features are then kept.",
        )
    ]


def readers(subject: Subject) -> list[Finding]:
    """Reader processes that died, in the run or when they were tried again."""
    died = subject.timing.died if subject.timing is not None else ""
    reason = died or subject.ending.reason
    workers = subject.recipe.data.workers
    advice = "Set data.workers=0 to see the row that ends a reader, or fewer data.workers and data.prefetch for memory."
    if "reader process" in reason:
        where = "when its batches were read again" if died else f"at step {subject.course.step + 1}"
        text = f"A reader process died {where}: {reason.rstrip('.')}."
        return [Finding("dead_workers", "fault", text, 1.0, 0.0, advice)]
    if subject.ending.state == "broken off" and isinstance(workers, int) and workers > 0:
        text = (
            f"The run broke off at step {subject.course.step} of {subject.course.total_steps} without a word, as it "
            f"does where one of its {workers} reader processes or the training itself is killed."
        )
        return [Finding("dead_workers", "fault", text, 1.0, 0.0, advice)]
    return []


def skipped(subject: Subject) -> list[Finding]:
    """Rows that could not be read."""
    names = "rows cannot be used" in subject.ending.reason or "cannot be read" in subject.ending.reason
    if subject.ending.state != "stopped" or not names:
        return []
    text = f"The run stopped: {subject.ending.reason.rstrip('.')}."
    return [Finding("skipped_rows", "fault", text, 1.0, SKIPPED, f"See skipped.jsonl in {subject.recipe.run_dir}.")]
