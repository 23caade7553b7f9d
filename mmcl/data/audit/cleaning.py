"""`write_cleaned`: a copy of a data set without what the audit would drop."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mmcl.data.audit.audited import ProgressCallback
from mmcl.data.audit.listing import rows_of
from mmcl.data.audit.report import AuditReport
from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import DataError


def dropped_list(out: Path) -> Path:
    """Where the rows that a cleaned copy lacks are listed: beside its folder."""
    return out.with_name(f"{out.name}.dropped.jsonl")


def write_cleaned(
    splits: Mapping[str | None, ImageTextDataset],
    report: AuditReport,
    out: str | Path,
    *,
    format: str = "folder",
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Write the data without the rows whose findings say "drop"; the original is not touched.

    Those are: rows that cannot be read, images that an earlier row of the split has too, and the training side of what
    is in several splits. Every row left out is listed in ``OUT.dropped.jsonl`` with its captions and the reasons.

    Args:
        splits: what was audited.
        report: of these splits.
        out: a new or empty folder, or one that the same call began.
        format, workers, progress: see ``mmcl.data.writing.write_dataset``, which writes it.

    Returns:
        What ``write_dataset`` returns, with ``dropped``: check -> rows left out for it (some for several);
        ``dropped_rows``: how many there are; ``dropped_list``: the file.

    Raises:
        DataError: no row would be left.
        ConfigError: ``out`` holds something else, or an unknown format.
    """
    from mmcl.data.writing import write_dataset

    out = Path(out).expanduser()
    drops = report.to_drop()
    kept = {}
    for split, dataset in splits.items():
        rows = np.setdiff1d(np.arange(len(dataset)), drops[split])
        if len(rows):
            kept[split] = dataset if len(rows) == len(dataset) else dataset.select(rows)
    if not kept:
        raise DataError(
            f"{report.data}: nothing is left; each of its {sum(report.rows.values())} rows has to be dropped"
        )
    counts = write_dataset(kept, out, format=format, workers=workers, progress=progress)
    path = dropped_list(out)
    number, reasons = _list_dropped(splits, report, path)
    return {**counts, "dropped": reasons, "dropped_rows": number, "dropped_list": str(path)}


def _list_dropped(
    splits: Mapping[str | None, ImageTextDataset], report: AuditReport, path: Path
) -> tuple[int, dict[str, int]]:
    findings = report.findings.filter(pc.equal(report.findings["action"], "drop"))
    reasons: dict[tuple[str | None, int | None, str], list[dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    for finding in rows_of(findings):
        key = (finding["split"], finding["row"], finding["place"])
        reasons.setdefault(key, []).append(finding)
        counts[finding["check"]] = counts.get(finding["check"], 0) + 1
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for (split, row, place), found in reasons.items():
                texts = None if row is None else splits[split].texts(row)
                line = {"split": split, "row": row, "id": found[0]["id"], "place": place, "texts": texts}
                line["reasons"] = [{name: one[name] for name in ("check", "detail", "related")} for one in found]
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    return len(reasons), counts
