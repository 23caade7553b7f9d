"""`mmcl card`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from rich.console import Console


def card(
    source: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run folder, or a folder of a model alone.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="README.md", help="File to write; pictures go to assets/.")
    ] = None,
    check: Annotated[Path | None, typer.Option(metavar="CARD.md", help="Say what a card lacks, and stop.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a card that exists, words and all.")] = False,
    repo_id: Annotated[
        str | None, typer.Option("--repo-id", metavar="OWNER/NAME", help="Where it will be pushed, for the snippets.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="A format that lies in the repository too: open_clip, onnx ...; repeatable."),
    ] = None,
    title: Title = None,
    license_: License = None,
    license_name: LicenseName = None,
    license_link: LicenseLink = None,
    language: Languages = None,
    dataset: Datasets = None,
    base_model: BaseModels = None,
    tag: Tags = None,
    gallery: Gallery = True,
    baseline: Baselines = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Judge random weights and raw pixels on the run's data.")
    ] = True,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write what was written and what it lacks as JSON.")
    ] = None,
) -> None:
    """Write the model card of a run: what was measured, beside its baselines, with code, curves and pictures.

    What only you know stands in it as a question. A card that exists is kept, unless with --force. --check exits with 1
    where something is missing or wrong. `mmcl push` writes the same card.

    Example: mmcl card runs/emoji -o README.md --repo-id owner/emoji --license apache-2.0 --language en

    Example: mmcl card --check README.md
    """
    from mmcl.errors import ConfigError

    check_json_file(json_file)
    console = make_console()
    if check is not None:
        if source is not None or out is not None:
            raise ConfigError(f"--check {check} reads a card and measures nothing; leave RUN and --out out")
        _check(check, console, json_file)
        return
    if source is None or out is None:
        raise ConfigError("name the run and the file, as in: mmcl card runs/emoji -o README.md; or --check CARD.md")
    _check_out(out, force=force)
    _check_names(repo_id, formats or [])
    words = model_card_words(
        title=title, license_=license_, license_name=license_name, license_link=license_link, languages=language,
        datasets=dataset, base_models=base_model, tags=tag,
    )  # fmt: skip
    from mmcl.hub.card import check_model_card, write_card
    from mmcl.hub.card.baselines import MEASURED

    options: dict[str, Any] = {
        "words": words,
        "repo_id": repo_id,
        "formats": tuple(formats or ()),
        "gallery": gallery,
        "baselines": (*(MEASURED if measure else ()), *(baseline or ())),
    }
    with tempfile.TemporaryDirectory(prefix=".mmcl-card-", dir=out.absolute().parent) as folder:
        staged = Path(folder)
        if (out.absolute().parent / "recipe.yaml").is_file():
            shutil.copy(out.absolute().parent / "recipe.yaml", staged)  # the card links to it where it is
        with watch_work(console) as progress:
            text = write_card(source, staged / "assets", **options, progress=progress)
        (staged / "README.md").write_text(text, encoding="utf-8")
        written = _put(staged, out)
    faults = check_model_card(text, folder=out.absolute().parent)
    for path in written:
        console.print(str(path), soft_wrap=True, markup=False)
    if faults:
        console.print(f"{len(faults)} things to answer or mend: mmcl card --check {out}", soft_wrap=True, markup=False)
    files = [str(path) for path in written]
    write_json(json_file, {"card": str(out), "files": files, "faults": [str(fault) for fault in faults]})


def _check(path: Path, console: Console, json_file: Path | None) -> None:
    """Print what a card lacks, and exit with 1 where it lacks something."""
    from mmcl.errors import ConfigError
    from mmcl.hub.card import check_model_card

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    faults = check_model_card(text, folder=path.absolute().parent)
    for fault in faults:
        console.print(f"{path}: {fault}", soft_wrap=True, markup=False)
    if not faults:
        console.print(f"{path}: complete and valid", soft_wrap=True, markup=False)
    write_json(json_file, {"card": str(path), "faults": [str(fault) for fault in faults]})
    if faults:
        raise typer.Exit(1)


def _check_out(out: Path, *, force: bool) -> None:
    """Refuse what could not be written, or would be lost, before anything is measured."""
    from mmcl.errors import ConfigError

    if out.is_dir():
        raise ConfigError(f"{out} is a folder; name a file in it, such as {out / 'README.md'}")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"{out}: there is no folder {out.absolute().parent}; make it first")
    if not os.access(out.absolute().parent, os.W_OK):
        raise ConfigError(f"{out} cannot be written (no permission in {out.absolute().parent}); name another file")
    if out.exists() and not force:
        raise ConfigError(f"{out} exists; name another file, or replace it, words and all, with --force")


def _check_names(repo_id: str | None, formats: list[str]) -> None:
    """Refuse ids and formats that there are not."""
    from mmcl.errors import ConfigError
    from mmcl.hub.card.public_names import is_hub_id
    from mmcl.hub.formats import FORMATS, find_format

    if repo_id is not None and not is_hub_id(repo_id):
        raise ConfigError(f"--repo-id {repo_id!r} is no id of the Hub; want owner/name")
    for name in formats:
        if name not in FORMATS:
            find_format(name)  # says which there are


def _put(staged: Path, out: Path) -> list[Path]:
    """Move the pictures, then the card, from the staging folder; what else lies in ``assets`` stays."""
    assets = out.absolute().parent / "assets"
    assets.mkdir(exist_ok=True)
    written = []
    for file in sorted((staged / "assets").iterdir()):
        os.replace(file, assets / file.name)
        written.append(out.parent / "assets" / file.name)
    os.replace(staged / "README.md", out)
    return [out, *written]
