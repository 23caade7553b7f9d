"""`mmcl data card`."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, write_json
from mmcl.cli.data.inspecting import AllImages, NoImages, SampleImages, Seed, Workers, how_many_images, measure
from mmcl.cli.evaluate.options import Columns, Images

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.data.cards import CardWords

_Texts = list[str] | None


def card(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help="What the card is about; all its splits.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="README.md", help="File to write; default the terminal.")
    ] = None,
    check: Annotated[Path | None, typer.Option(metavar="CARD.md", help="Say what a card lacks, and stop.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Measure the card in --out again, keep its words.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a card that exists, words and all.")] = False,
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    license_: Annotated[_Texts, typer.Option("--license", help="Identifier of the Hub, such as cc-by-4.0.")] = None,
    license_name: Annotated[str | None, typer.Option(help="Name of a licence 'other'.")] = None,
    license_link: Annotated[str | None, typer.Option(help="Address of a licence 'other', or LICENSE.")] = None,
    language: Annotated[_Texts, typer.Option(help="ISO 639-1 code of the captions.")] = None,
    source_url: Annotated[_Texts, typer.Option(help="Where the data come from.")] = None,
    credit: Annotated[_Texts, typer.Option(help="Who is to be named.")] = None,
    tag: Annotated[_Texts, typer.Option(help="A further tag on the Hub.")] = None,
    version: Annotated[str | None, typer.Option(help="Of the data.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write card, faults, and what was measured.")
    ] = None,
    sample_images: SampleImages = 1_000,
    all_images: AllImages = False,
    no_images: NoImages = False,
    workers: Workers = 0,
    seed: Seed = 0,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Write a Hugging Face data card with figures measured from the data, and questions where only you know.

    A card that exists is kept: --update measures its marked blocks again, --force replaces it. --check exits with 1
    where something is missing or wrong.

    Example: mmcl data card path/to/emoji -o path/to/emoji/README.md --license cc-by-4.0 --language en
    """
    from mmcl.errors import ConfigError

    check_json_file(json_file)
    console = make_console()
    if check is not None:
        if data is not None or out is not None or update:
            raise ConfigError(f"--check {check} reads a card and measures nothing; leave DATA, --out and --update out")
        _check(check, console, json_file)
        return
    if data is None:
        raise ConfigError("name the data, as in: mmcl data card path/to/emoji; or a card with --check CARD.md")
    _check_out(out, update=update, force=force)
    from mmcl.data.cards import CardWords, check_card
    from mmcl.data.cards.measured import measured_blocks
    from mmcl.data.cards.writing import update_card, write_card

    words = CardWords(
        name=name, licenses=license_ or (), license_name=license_name, license_link=license_link,
        languages=language or (), source_urls=source_url or (), credits=credit or (), version=version, tags=tag or (),
    )  # fmt: skip
    _check_words(words)
    number = how_many_images(sample_images, all_images=all_images, no_images=no_images)
    inspection, datasets = measure(
        data, columns=columns, images=images, sample_images=number, workers=workers, seed=seed, console=console
    )
    command = _command(data, columns, images, number, seed)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    blocks = measured_blocks(inspection, datasets, command=command, date=today)
    text = update_card(_read(out), inspection, blocks) if update else write_card(inspection, blocks, words)
    faults = check_card(text, folder=None if out is None else out.absolute().parent)
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text)
        console.print(f"{out}: {len(faults)} things to answer or mend: mmcl data card --check {out}", soft_wrap=True)
    told = {"card": None if out is None else str(out), "faults": [str(fault) for fault in faults]}
    write_json(json_file, {**told, **inspection.as_dict()})


def _command(data: str, columns: _Texts, images: Path | None, number: int | None, seed: int) -> str:
    """The command that measures the same again, in a form that fits a code span."""
    options = [f"--column {pair}" for pair in columns or []]
    options += [f"--images {images}"] if images else []
    options.append("--all-images" if number is None else "--no-images" if number == 0 else f"--sample-images {number}")
    options += [f"--seed {seed}"] if seed else []
    return " ".join(["mmcl data card", shlex.quote(data), "-o CARD.md --update", *options])


def _check(path: Path, console: Console, json_file: Path | None) -> None:
    """Print what a card lacks, and exit with 1 where it lacks something."""
    from mmcl.data.cards import check_card

    faults = check_card(_read(path), folder=path.absolute().parent)
    for fault in faults:
        console.print(f"{path}: {fault}", soft_wrap=True, markup=False)
    if not faults:
        console.print(f"{path}: complete and valid", soft_wrap=True, markup=False)
    write_json(json_file, {"card": str(path), "faults": [str(fault) for fault in faults]})
    if faults:
        raise typer.Exit(1)


def _check_out(out: Path | None, *, update: bool, force: bool) -> None:
    """Refuse what could not be written, or would be lost, before the data are measured."""
    from mmcl.errors import ConfigError

    if update and out is None:
        raise ConfigError("--update needs the card: -o CARD.md")
    if update and force:
        raise ConfigError("--update keeps a card's words and --force replaces them; choose one")
    if out is None:
        return
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it, such as {out / 'README.md'}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    if out.exists() and not (update or force):
        raise ConfigError(f"{out} exists; --update measures it again and keeps its words, --force replaces it")
    if update:
        from mmcl.data.cards.measured import find_blocks

        if not find_blocks(_read(out)):
            raise ConfigError(f"{out} has no block between <!-- mmcl:measured --> and <!-- mmcl:end --> to measure")


def _check_words(words: CardWords) -> None:
    """Refuse values that the Hub does not know, before the data are measured."""
    from mmcl.data.cards.front_matter import FrontMatter, check_front_matter
    from mmcl.errors import ConfigError

    values = {"license": list(words.licenses), "language": list(words.languages)}
    values |= {"license_name": words.license_name, "license_link": words.license_link}
    for fault in check_front_matter(FrontMatter(values, {}, 1, "")):
        if fault.about in ("license", "language") and values[fault.about]:
            raise ConfigError(f"--{fault.about}: {fault.problem}")


def _read(path: Path) -> str:
    from mmcl.errors import ConfigError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _write(path: Path, text: str) -> None:
    """Write the card, whole or not at all."""
    import os

    from mmcl.errors import ConfigError

    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}; name another file") from error
