"""`mmcl data make`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

_EMOJI = ("google", "twitter", "emojibase", "images_version", "names_version")
_SHAPES = ("train", "image_size", "seed")
_OPTIONS = {"emoji": _EMOJI, "shapes": _SHAPES, "digits": ("image_size",)}


def make(
    name: Annotated[str, typer.Argument(metavar="NAME", help="emoji, shapes or digits.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Folder to write.")],
    google: Annotated[
        Path | None, typer.Option(metavar="DIR", help="emoji: unpacked emoji-datasource-google, instead of npm.")
    ] = None,
    twitter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="emoji: unpacked emoji-datasource-twitter, instead of npm.")
    ] = None,
    emojibase: Annotated[
        Path | None, typer.Option(metavar="DIR", help="emoji: unpacked emojibase-data, instead of npm.")
    ] = None,
    images_version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="emoji: of emoji-datasource; default 16.0.0.")
    ] = None,
    names_version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="emoji: of emojibase-data; default 17.0.0.")
    ] = None,
    train: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="shapes: scenes of the split train; default 32000.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(metavar="N", help="shapes, digits: side in pixels; default 64.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, metavar="S", help="shapes: which scenes; default 0.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the counts as JSON.")] = None,
) -> None:
    """Make a data set that everybody can make again, with a card.

    emoji: 1,644 emoji as Google and Twitter draw them, with their names in twenty languages, from three npm packages
    that npm fetches, or from folders of them. shapes: the built-in scenes as files. digits: scikit-learn's 1,797
    handwritten digits with captions. Broken off, the same command goes on.

    Example: mmcl data make emoji -o data/emoji

    Example: mmcl data make emoji -o data/emoji --google DIR --twitter DIR --emojibase DIR

    Example: mmcl data make shapes -o data/shapes --train 4000 --image-size 96 --seed 1

    Example: mmcl data make digits -o data/digits
    """
    if name not in _OPTIONS:
        near = difflib.get_close_matches(name, _OPTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no data set {name!r} to make; known are {', '.join(_OPTIONS)}{hint}")
    given = {
        "google": google, "twitter": twitter, "emojibase": emojibase, "images_version": images_version,
        "names_version": names_version, "train": train, "image_size": image_size, "seed": seed,
    }  # fmt: skip
    options = {key: value for key, value in given.items() if value is not None}
    for key in options:
        if key not in _OPTIONS[name]:
            raise ConfigError(f"--{key.replace('_', '-')} is no option of {name}; it has {_listed(_OPTIONS[name])}")
    check_json_file(json_file)
    console = make_console()
    with watch_work(console) as progress:
        counts = _make(name, out, options, progress)
    _print_counts(name, counts, console)
    write_json(json_file, counts)


def _listed(keys: tuple[str, ...]) -> str:
    return ", ".join(f"--{key.replace('_', '-')}" for key in keys)


def _make(name: str, out: Path, options: dict[str, Any], progress: Any) -> dict[str, Any]:
    if name == "emoji":
        from mmcl.data.making.emoji import make_emoji

        return make_emoji(out, **options, progress=progress)
    if name == "digits":
        from mmcl.data.making.digits import make_digits

        return make_digits(out, **options, progress=progress)
    from mmcl.data.making.shapes import make_shapes

    return make_shapes(out, **options, progress=progress)


def _print_counts(name: str, counts: dict[str, Any], console: Console) -> None:
    rows = ", ".join(f"{split} {number:,}" for split, number in counts["rows"].items())
    console.print(f"{counts['out']}: {name}, {rows}; {counts['bytes'] / 1e6:,.1f} MB", markup=False, soft_wrap=True)
    for package, version in counts.get("packages", {}).items():
        console.print(f"made of {package} {version}", markup=False)
    if "skipped_list" in counts:
        left_out = sum(counts["skipped"].values()) + counts["dropped"]
        console.print(f"{left_out:,} rows could not be used, with reasons in {counts['skipped_list']}", soft_wrap=True)
    console.print(f"The card with licences and credits: {counts['card']}", markup=False, soft_wrap=True)
