"""The lines that a run has written: its records and findings, and what of them cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmcl.builders.examining.run_files import MISSING, read_progress
from mmcl.doctor.examination.subject import Damage
from mmcl.doctor.finding import Finding
from mmcl.errors import ConfigError
from mmcl.training.runs import FINDINGS, METRICS

_NUMBERS = (int, float)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` that are records, in order; lines that are none are left out.

    Args:
        folder: of the run.
    """
    return [line for line in _lines(folder / METRICS) if line is not None and _is_record(line)]


def damaged_records(folder: Path, *, log_every: int) -> Damage | None:
    """What is wrong with ``metrics.jsonl``; None where it is whole, or there is nothing yet that it would tell.

    A last line that is half written is what a kill leaves, and no damage of a run that has not finished. Records that
    end before the newest checkpoint were cut.

    Args:
        folder: of the run.
        log_every: steps between two lines.
    """
    path, progress = folder / METRICS, read_progress(folder)
    step = progress.get("step") if isinstance(progress.get("step"), int) else 0
    if not path.is_file():
        return Damage(METRICS, MISSING, f"the records of {step} steps") if step else None
    lines = _lines(path)
    bad = [number for number, line in enumerate(lines, 1) if line is None or not _is_record(line)]
    if bad == [len(lines)] and lines[-1] is None and not progress.get("finished"):
        bad = []
    size = f"{path.stat().st_size:,} bytes"
    if bad:
        found = f"{size} in which {len(bad):,} of {len(lines):,} lines are no records (the first is line {bad[0]:,})"
        return Damage(METRICS, found, "one record in JSON a line")
    newest = max((line["step"] for line in lines if line is not None and "loss" in line), default=0)
    if newest < step - log_every:
        return Damage(METRICS, f"{size} that end at step {newest:,}", f"records up to the checkpoint's step {step:,}")
    return None


def read_findings(folder: Path) -> tuple[list[Finding], Damage | None]:
    """What the doctor said while the run was trained, and what is wrong with the file.

    Args:
        folder: of the run.
    """
    findings, bad = [], 0
    for line in _lines(folder / FINDINGS):
        try:
            findings.append(Finding.from_dict(line or {}))
        except (ConfigError, TypeError, ValueError, AttributeError):
            bad += 1
    damage = Damage(FINDINGS, f"{bad} lines that are no findings", "one finding in JSON a line", is_grave=False)
    return findings, damage if bad else None


def _lines(path: Path) -> list[dict[str, Any] | None]:
    """Every line, None where it is no JSON with named values; none at all where there is no file."""
    if not path.is_file():
        return []
    found: list[dict[str, Any] | None] = []
    for line in path.read_bytes().splitlines():
        try:
            value = json.loads(line.decode("utf-8"))
        except ValueError:
            value = None
        found.append(value if isinstance(value, dict) else None)
    return found


def _is_record(line: dict[str, Any]) -> bool:
    if not isinstance(line.get("step"), int):
        return False
    return "loss" not in line or (
        isinstance(line["loss"], (*_NUMBERS, type(None))) and isinstance(line.get("epoch"), _NUMBERS)
    )
