"""How a run stands, from what it left: finished, stopped, interrupted, broken off or running."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl.builders.examining.run_files import read_progress
from mmcl.doctor.examination.subject import Ending
from mmcl.doctor.finding import Finding
from mmcl.training.runs import CONFIG, METRICS

STILL_SECONDS, STILL_INTERVALS = 10.0, 20.0  # without a line of metrics.jsonl, a run has broken off


def read_ending(folder: Path, records: Sequence[dict[str, Any]], told: Sequence[Finding]) -> Ending:
    """How a run stands.

    Args:
        folder: of the run.
        records: the lines of ``metrics.jsonl``.
        told: what the doctor said while it was trained.
    """
    newest = max((record["step"] for record in records), default=0)
    stopped = _stopped_batch(folder)
    if stopped and stopped.get("step", 0) >= newest:  # not of a start that was resumed since
        return Ending("stopped", f"the loss was {stopped.get('loss', 'not finite')}", tuple(stopped.get("rows", ())))
    progress = read_progress(folder)
    if progress.get("finished"):
        return Ending("finished", str(progress.get("stopped_by", "")))
    if progress.get("stopped_by"):
        return Ending("interrupted", str(progress["stopped_by"]))
    if any(finding.cause == "dead_workers" for finding in told):
        return Ending("stopped", "a reader process died")
    return Ending("broken off" if _is_still(folder, records) else "running")


def _stopped_batch(folder: Path) -> dict[str, Any]:
    """What a run that was stopped by an error wrote; empty where it was not, or what it wrote cannot be read."""
    path = folder / "stopped_batch.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError):
        return {"loss": "not finite"}
    return value if isinstance(value, dict) else {}


def _is_still(folder: Path, records: Sequence[dict[str, Any]]) -> bool:
    """Whether nothing has been written for many times what a line usually takes."""
    steps = [record for record in records if "seconds" in record]
    interval = steps[-1]["seconds"] / len(steps) if steps else STILL_SECONDS
    written = [path.stat().st_mtime for name in (METRICS, CONFIG) if (path := folder / name).exists()]
    return time.time() - max(written, default=0.0) > max(STILL_SECONDS, STILL_INTERVALS * interval)
