"""`mmcl doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.doctor.examination.verdict import Examination

_COLORS = {"fault": "red", "warning": "yellow", "note": "dim"}


def doctor(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder: finished, stopped, interrupted or still running.")
    ],
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="Where the data are, if they moved.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=100, help="Training rows that are looked at.")] = 1000,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the findings as JSON.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PAGE.html", help="Write the findings as a page.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with exit code 1 where a fault was found.")] = False,
) -> None:
    """Say what is wrong with a training, by what evidence, and what to do next.

    Recipe, records, data and model are looked at; nothing is changed. Files, pairs, pixels, tokens, weights,
    embeddings, batches and reading are checked, and the cause is named before what follows from it.

    Example: mmcl doctor runs/emoji

    Example: mmcl doctor runs/emoji --html doctor.html --json doctor.json --strict
    """
    check_json_file(json_file)
    from mmcl.errors import ConfigError

    if html is not None and html.is_dir():
        raise ConfigError(f"--html {html}: it is a folder; name a file in it")
    from mmcl.builders.examining.examine import examine_run

    console = make_console()
    with watch_work(console) as progress:
        found = examine_run(run, data=data, rows=rows, progress=progress)
    _print(found, console)
    if html is not None:
        from mmcl.builders.examining.run_records import read_records
        from mmcl.doctor.examination.page import examination_page

        page = examination_page(found, read_records(run))
        console.print(f"page: {page.write(html)}", soft_wrap=True, markup=False)
    write_json(json_file, found.to_dict())
    if strict and any(finding.severity == "fault" for finding in found.findings):
        raise typer.Exit(1)


def _print(found: Examination, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(found.diagnosis, markup=False, soft_wrap=True, style="bold")
    of = f" of {found.total_steps:,}" if found.total_steps else ""
    steps = f"step {found.step:,}{of}" if found.step else "before its first step"
    console.print(f"{found.run}: {found.state}, {steps}", markup=False, soft_wrap=True)
    if found.findings:
        table = Table(show_lines=True)
        for name in ("severity", "what", "evidence", "next step"):
            table.add_column(name, ratio=3 if name in ("evidence", "next step") else None, overflow="fold")
        for finding in found.findings:
            cells = (finding.title, finding.evidence, finding.next_step)
            table.add_row(Text(finding.severity, style=_COLORS[finding.severity]), *map(Text, cells))
        console.print(table)
    if found.well:
        console.print("well: " + "; ".join(said for _, said in found.well), markup=False, soft_wrap=True)
    for name, reason in found.not_made:
        console.print(f"not looked at: {name} ({reason})", style="dim", markup=False, soft_wrap=True)
