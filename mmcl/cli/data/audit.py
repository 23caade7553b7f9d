"""`mmcl data audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.cli.evaluate.options import BatchSize, Columns, Data, Device, Images, renamed_columns

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.data.audit.report import AuditReport

EXAMPLES = 3  # of each check, in the terminal
_COLORS = {"error": "red", "warning": "yellow", "note": "dim"}

ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="Also look for captions that do not fit, by this model."),
]
Report = Annotated[Path | None, typer.Option("--report", metavar="PAGE.html", help="Write a page with thumbnails.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write counts, shares and leaks as JSON.")]
List = Annotated[
    Path | None, typer.Option("--list", metavar="FILE", help="Write every finding: .jsonl, .csv or .parquet.")
]
Fix = Annotated[
    Path | None, typer.Option("--fix", metavar="OUT", help="Write a copy without the rows to be dropped, into OUT.")
]
Format = Annotated[str, typer.Option("--format", help="Of the copy: folder, parquet or webdataset.")]
Checks = Annotated[
    str | None, typer.Option("--checks", metavar="A,B", help="Make these checks alone; a wrong name lists all.")
]
Skip = Annotated[str | None, typer.Option("--skip", metavar="A,B", help="Make all checks but these.")]
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold", metavar="NAME=VALUE", help="Where a check begins, as min_pixels=64; a wrong NAME lists all."
    ),
]
Workers = Annotated[int, typer.Option("--workers", min=0, help="Processes that decode images; 0: this one does.")]
Strict = Annotated[bool, typer.Option("--strict", help="End with exit code 1 where an error was found.")]


def audit(
    data: Data,
    model: ModelOption = None,
    report: Report = None,
    json_file: Json = None,
    list_file: List = None,
    fix: Fix = None,
    format: Format = "folder",
    checks: Checks = None,
    skip: Skip = None,
    threshold: Threshold = None,
    workers: Workers = 0,
    strict: Strict = False,
    batch_size: BatchSize = 64,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Find what spoils training or evaluation: broken and repeated images, poor captions, leaks between splits.

    All splits are looked at together; DATA:SPLIT looks at one. Nothing is changed; --fix writes a copy, lists what it
    leaves out in OUT.dropped.jsonl, and never drops the test side of a leak. Broken off, the same command goes on.

    Example: mmcl data audit path/to/emoji --report audit.html --list findings.csv

    Example: mmcl data audit path/to/emoji --model runs/emoji --fix cleaned --threshold near_bits=8
    """
    from mmcl.build import audit_data
    from mmcl.data.audit.limits import limits_from
    from mmcl.data.audit.listing import check_list_file, write_findings

    chosen, limits = _chosen(checks, skip), limits_from(threshold or [])
    check_json_file(json_file)
    check_list_file(list_file)
    _check_copy(fix, format, report)
    console = make_console()
    with watch_work(console) as progress:
        from mmcl.data import load_all

        splits = load_all(data, columns=renamed_columns(columns), images=images, progress=progress)
        embedder = _open_embedder(model, device, progress)
        found = audit_data(
            splits, model=embedder, name=data, limits=limits, checks=chosen, batch_size=batch_size, workers=workers,
            progress=progress,
        )  # fmt: skip
    _print_report(found, console)
    if list_file is not None:
        console.print(f"list: {write_findings(found.findings, list_file)}", soft_wrap=True, markup=False)
    if report is not None:
        from mmcl.data.audit.page import audit_page

        console.print(f"report: {audit_page(found, splits).write(report)}", soft_wrap=True, markup=False)
    summary = found.summary()
    if fix is not None:
        from mmcl.data.audit.cleaning import write_cleaned

        with watch_work(console) as progress:
            summary["fixed"] = write_cleaned(splits, found, fix, format=format, workers=workers, progress=progress)
        _print_fixed(summary["fixed"], fix, console)
    write_json(json_file, summary)
    if strict and found.count("error"):
        raise typer.Exit(1)


def _chosen(checks: str | None, skip: str | None) -> list[str] | None:
    """The names that ``--checks`` and ``--skip`` leave; None for all."""
    from mmcl.data.audit.checks import CHECKS
    from mmcl.data.audit.limits import check_name
    from mmcl.errors import ConfigError

    if checks is not None and skip is not None:
        raise ConfigError("--checks and --skip contradict each other; leave one out")
    named = [name.strip() for name in (checks or skip or "").split(",") if name.strip()]
    for name in named:
        check_name(name, CHECKS, what="check")
    if skip is not None:
        return [name for name in CHECKS if name not in named]
    return named or None


def _check_copy(fix: Path | None, format: str, report: Path | None) -> None:
    """Refuse what could not be written, before the work is done."""
    from mmcl.errors import ConfigError

    if report is not None and report.is_dir():
        raise ConfigError(f"--report {report}: it is a folder; name a file in it")
    if format not in ("folder", "parquet", "webdataset"):
        raise ConfigError(f"--format {format}: want folder, parquet or webdataset")
    if fix is not None and fix.exists() and not fix.is_dir():
        raise ConfigError(f"--fix {fix}: it is a file; name a new folder")


def _open_embedder(model: str | None, device: str | None, progress: Any) -> Any:
    if model is None:
        return None
    from mmcl.cli.evaluate.options import open_model

    embedder = open_model(model, device=device)
    embedder.progress = progress
    return embedder


def _print_report(found: AuditReport, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from mmcl.data.audit.check import SEVERITIES

    table = Table(title=Text(f"{found.data}: {sum(found.rows.values()):,} rows"))
    table.add_column("check")
    for name in SEVERITIES:
        table.add_column(f"{name}s", justify="right")
    table.add_column("a copy")
    for check in found.checks:
        rows = found.of(check.name)
        if rows.num_rows:
            counts = [found.count(name, check.name) for name in SEVERITIES]
            cells = [Text(f"{n:,}" if n else "", style=_COLORS[name]) for name, n in zip(SEVERITIES, counts)]
            table.add_row(Text(check.name), *cells, "drops" if check.action == "drop" else "keeps")
    console.print(table if table.row_count else Text(f"{found.data}: nothing found"))
    _print_examples(found, console)
    _print_leaks(found, console)
    for name, reason in found.not_run.items():
        console.print(f"not looked for: {name} ({reason})", style="dim", markup=False, soft_wrap=True)
    flagged = sum(len(part) for part in found.flagged().values())
    drops = sum(len(part) for part in found.to_drop().values())
    console.print(f"{flagged:,} rows have an error or a warning; --fix would leave out {drops:,}", markup=False)


def _print_examples(found: AuditReport, console: Console) -> None:
    for check in found.checks:
        rows = found.of(check.name)
        if not rows.num_rows:
            continue
        console.print(f"{check.name}:", markup=False, style="bold")
        for row in rows.slice(0, EXAMPLES).to_pylist():
            beside = f" ({row['related'][0]['place']})" if row["related"] else ""
            console.print(f"  {row['place']}: {row['detail']}{beside}", markup=False, soft_wrap=True)
        if rows.num_rows > EXAMPLES:
            console.print(f"  ... and {rows.num_rows - EXAMPLES:,} more", markup=False)


def _print_leaks(found: AuditReport, console: Console) -> None:
    from rich.table import Table

    if not found.leaks:
        return
    table = Table(title="What splits know of each other")
    for name in ("split", "known from", "by", "rows", "share"):
        table.add_column(name, justify="right" if name in ("rows", "share") else "left")
    for leak in found.leaks:
        share = f"{100 * leak.share:.2f} %"
        table.add_row(str(leak.held_out), str(leak.seen), leak.by, f"{len(leak.rows):,}", share)
    console.print(table)


def _print_fixed(fixed: dict[str, Any], out: Path, console: Console) -> None:
    rows = ", ".join(f"{split or 'all'} {number:,}" for split, number in fixed["rows"].items())
    console.print(f"{out}: {rows} rows; {fixed['dropped_rows']:,} left out", soft_wrap=True, markup=False)
    for check, number in fixed["dropped"].items():
        console.print(f"  {check}: {number:,}", markup=False)
    console.print(f"listed in {fixed['dropped_list']}", soft_wrap=True, markup=False)
