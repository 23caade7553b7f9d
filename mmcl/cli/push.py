"""`mmcl push`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.card_options import (
    Baselines,
    BaseModels,
    Datasets,
    Gallery,
    Languages,
    License,
    LicenseLink,
    LicenseName,
    Tags,
    Title,
    model_card_words,
)
from mmcl.cli.console import check_json_file, make_console, watch_work, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from mmcl.hub.pushing import PushReport


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run (runs/NAME), or a folder with a model.")],
    repo_id: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the Hub; made where missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="Branch to push to; made where missing; default main.")
    ] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request, change no branch.")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Also as transformers, open_clip, sentence-transformers or onnx, in the same repository; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go; asks and changes nothing.")] = False,
    allow_unfinished: Annotated[
        bool, typer.Option("--allow-unfinished", help="Push a run that has not ended or was not judged.")
    ] = False,
    allow: Annotated[
        list[str] | None,
        typer.Option("--allow", metavar="PATTERN", help="Let data or files of unknown kinds go; repeatable."),
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="The commit's message.")] = "Push model",
    new_card: Annotated[bool, typer.Option("--new-card", help="Write a card though RUN has a README.md.")] = False,
    title: Title = None,
    license_: License = None,
    license_name: LicenseName = None,
    license_link: LicenseLink = None,
    languages: Languages = None,
    datasets: Datasets = None,
    base_models: BaseModels = None,
    tags: Tags = None,
    gallery: Gallery = True,
    baselines: Baselines = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write address, commit, files and refusals.")
    ] = None,
) -> None:
    """Push a run's model to the Hub: weights, tokenizer, recipe, figures and a model card, in one commit.

    Log in first (hf auth login, or HF_TOKEN). Pickles, secrets, data and hidden files are refused. After a broken
    connection the same command sends what is missing alone.

    Example: mmcl push runs/emoji owner/emoji --license apache-2.0 --language en --format onnx

    Example: mmcl push runs/emoji owner/emoji --dry-run
    """
    from mmcl.errors import ConfigError

    check_json_file(json_file)
    if not message.strip():
        raise ConfigError("--message is empty; want a line that says what changed")
    words = model_card_words(
        title=title, license_=license_, license_name=license_name, license_link=license_link, languages=languages,
        datasets=datasets, base_models=base_models, tags=tags,
    )  # fmt: skip
    console = make_console()
    from mmcl.hub.pushing import push as push_model
    from mmcl.hub.staging import StageOptions

    options = StageOptions(
        words=words,
        gallery=gallery,
        baselines=_all_baselines(baselines),
        new_card=new_card,
        allow_unfinished=allow_unfinished,
    )
    seen: list[str] = []
    try:
        with watch_work(console) as bars:
            report = push_model(
                run, repo_id, private=private or None, revision=revision, create_pr=create_pr, formats=formats or (),
                dry_run=dry_run, message=message, allow=allow or (), options=options, progress=_watch(seen, bars),
            )  # fmt: skip
    except KeyboardInterrupt:
        typer.echo(_where_it_stopped(seen, repo_id), err=True)
        raise
    write_json(json_file, report.to_dict())
    _show(report, run, console)
    if dry_run and report.refused:
        raise typer.Exit(1)


def _all_baselines(named: list[str] | None) -> tuple[str, ...] | None:
    """Those that are named, and those that every card has; None for the latter alone."""
    if not named:
        return None
    from mmcl.hub.card.baselines import MEASURED

    return (*MEASURED, *named)


def _watch(seen: list[str], bars: Callable[[str, int, int], None] | None) -> Callable[[str, int, int], None]:
    """Note what has begun, and show it where there is a terminal."""

    def progress(what: str, done: int, total: int) -> None:
        seen[:] = [what]
        if bars is not None:
            bars(what, done, total)

    return progress


def _where_it_stopped(seen: list[str], repo_id: str) -> str:
    """What is on the Hub after Ctrl-C, and what the same command does next."""
    from mmcl.repos.uploading import CHECKING, COMMITTING, CREATING, SENDING

    last = seen[0] if seen else ""
    again = "the same command goes on from there"
    if last == SENDING:
        return f"stopped while files were sent: nothing is committed to {repo_id}, files sent so far are kept; {again}"
    if last == COMMITTING:
        return f"stopped while the commit was made: it is in {repo_id} as a whole or not at all; {again}"
    if last == CHECKING:
        return f"stopped after the commit was made in {repo_id} and before it was checked; {again}"
    if last == CREATING:
        return f"stopped before any file was sent: {repo_id} may be there, and is as it was or empty; {again}"
    return f"stopped before the Hub was asked: nothing of {repo_id} has changed"


def _show(report: PushReport, run: str, console: Console) -> None:
    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    if report.pushed is None:
        for path, size in report.files.items():
            say(f"{size:>13,}  {path}")
        for path, why in report.refused.items():
            say(f"      refused  {path}: {why}")
        would = "nothing would go" if report.refused else f"would go to {report.repo_id} in one commit"
        say(f"{len(report.files)} files, {report.size / 1e6:,.1f} MB: {would}; dry run, nothing was sent")
    for note in report.notes:
        say(f"- {note}")
    if report.made_portable:
        say(f"- local paths were replaced by portable names in {', '.join(report.made_portable)}")
    if report.pushed is None:
        return
    pushed = report.pushed
    if not pushed.changed:
        say(f"{report.repo_id} holds all of it already; no commit was made")
    else:
        say(f"pushed and checked: {len(report.files)} files, {report.size / 1e6:,.1f} MB, in one commit")
    if pushed.deleted:
        say(f"taken out, as the last push had them and this one has not: {', '.join(pushed.deleted)}")
    say(f"commit: {pushed.url}")
    if pushed.pr_url is not None:
        say(f"pull request: {pushed.pr_url}")
    say(f'load it: mmcl.load("{report.repo_id}")' + (f"   also: {', '.join(report.formats)}" if report.formats else ""))
