"""`audit`: every check, over all splits of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from mmcl.data.audit.audited import Audited, ProgressCallback
from mmcl.data.audit.check import Check, Found
from mmcl.data.audit.checks import CHECKS
from mmcl.data.audit.checks.left_out import EMPTY_CAPTION, LEFT_OUT, NO_CAPTION
from mmcl.data.audit.limits import Limits, check_name
from mmcl.data.audit.report import FINDINGS, AuditReport
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.offline_mining import Embed
from mmcl.errors import ConfigError

MOST_RELATED = 10  # rows that are named beside a found one
_WRITTEN_AT_A_TIME = 65536


def audit(
    splits: Mapping[str | None, ImageTextDataset],
    *,
    name: str | None = None,
    limits: Limits | None = None,
    checks: Sequence[str] | None = None,
    embed: Embed | None = None,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> AuditReport:
    """Look for everything that spoils training or evaluation on a data set; nothing is changed.

    Images are scanned once and what is found of them is kept (see ``scan_images``); a broken-off audit goes on there.
    Memory is bounded: beside the captions themselves, some numbers a row.

    Args:
        splits: split -> its rows, as ``load_all`` gives them; None for data without splits.
        name: of the data, for the report; the first data set's own by default.
        limits: thresholds; the defaults are explained there.
        checks: the names of those to make; all by default. Without a model those that need one are not made.
        embed: a model: captions that do not fit are looked for, and images with close embeddings compared too.
        workers: processes that decode beside this one.
        progress: told what is done, how much of it, and of how much.

    Returns:
        What was found. Data without rows give a report without findings.

    Raises:
        ConfigError: no such check, or no split at all.
        DataError: the cache folder cannot be written.

    Example:
        >>> from mmcl.data import load_all
        >>> report = audit(load_all("shapes?train=8&test=8"))
        >>> report.count("error")
        0
    """
    if not splits:
        raise ConfigError("splits is empty; give at least one split, as load_all does")
    chosen = _chosen(checks)
    audited = Audited(splits, limits or Limits(), embed, workers, progress)
    tables = []
    for check in chosen:
        if check.need == "pixels" and not audited.has_pixels:
            audited.not_run[check.name] = "the data are vectors without pixels"
        elif check.need == "model" and embed is None:
            audited.not_run[check.name] = "no model given"
        elif check in (LEFT_OUT, EMPTY_CAPTION):
            tables.append(_skipped_rows(audited, check))
        else:
            tables += [table for found in check.find(audited) for table in _as_tables(audited, check, found)]
    name = name or audited.datasets[0].name
    rows = {split: len(dataset) for split, dataset in splits.items()}
    findings = pa.concat_tables([FINDINGS.empty_table(), *tables])
    return AuditReport(name, rows, findings, audited.leaks, chosen, audited.not_run, _figures(audited))


def _chosen(names: Sequence[str] | None) -> list[Check]:
    for name in names or []:
        check_name(name, CHECKS, what="check")
    return [check for check in CHECKS.values() if names is None or check.name in names]


def _as_tables(audited: Audited, check: Check, found: Found) -> Iterable[pa.Table]:
    """Findings as rows of the table, a bounded number of Python objects at a time."""
    ids = {}
    for start in range(0, len(found.rows), _WRITTEN_AT_A_TIME):
        rows = found.rows[start : start + _WRITTEN_AT_A_TIME]
        listed = []
        for index, row in enumerate(rows.tolist(), start):
            dataset, number = audited.local(row)
            split = audited.names[int(audited.split_of(row))]
            if split not in ids:
                ids[split] = "id" in dataset.table.column_names
            related = [] if found.related is None else found.related[index][:MOST_RELATED]
            listed.append(
                {
                    "split": split,
                    "row": number,
                    "id": dataset.value("id", number) if ids[split] else None,
                    "place": dataset.images.describe(number),
                    "check": check.name,
                    "severity": found.severity or check.severity,
                    "detail": found.detail(index),
                    "related": [_related(audited, other) for other in related],
                    "action": found.action or check.action,
                }
            )
        yield pa.Table.from_pylist(listed, schema=FINDINGS)


def _related(audited: Audited, row: int) -> dict[str, object]:
    dataset, number = audited.local(row)
    split = audited.names[int(audited.split_of(row))]
    return {"split": split, "row": number, "place": dataset.images.describe(number)}


def _skipped_rows(audited: Audited, check: Check) -> pa.Table:
    """What readers dropped: they list it beside the rows, once for each split that a file gave."""
    listed, known = [], set()
    for split, dataset in zip(audited.names, audited.datasets):
        for skipped in dataset.skipped:
            is_empty = skipped.reason.startswith(NO_CAPTION)
            if (skipped.source, skipped.reason) in known or is_empty != (check is EMPTY_CAPTION):
                continue
            known.add((skipped.source, skipped.reason))
            listed.append(
                {"split": split, "row": None, "place": skipped.source, "check": check.name, "severity": check.severity,
                 "detail": skipped.reason, "related": [], "action": check.action}
            )  # fmt: skip
    return pa.Table.from_pylist(listed, schema=FINDINGS)


def _figures(audited: Audited) -> dict[str, int]:
    twins = audited.__dict__.get("twins")  # found by now where a check needed it
    return {} if twins is None else {"image_pairs_compared": twins.compared}
