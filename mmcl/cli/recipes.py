"""`mmcl recipes`: the recipes that ship with mmcl."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import make_console

app = typer.Typer(invoke_without_command=True)


def _about(path: Path) -> str:
    """A recipe's own words: its first comment line that is not the launch command."""
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((line for line in comments if line and not line.startswith(("mmcl ", "accelerate "))), "")


@app.callback()
def recipes(context: typer.Context) -> None:
    """List, show or copy the recipes that ship with mmcl.

    Example: mmcl recipes
    """
    if context.invoked_subcommand is not None:
        return
    from rich.markup import escape
    from rich.table import Table

    from mmcl.config import shipped_recipes

    table = Table("recipe", "what it trains", title="mmcl train RECIPE")
    for name, path in sorted(shipped_recipes().items()):
        table.add_row(escape(name), escape(_about(path)))
    make_console().print(table)


@app.command(no_args_is_help=True)
def show(name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.")]) -> None:
    """Print a recipe.

    Example: mmcl recipes show quickstart
    """
    from mmcl.config import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command(no_args_is_help=True)
def card(name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.")]) -> None:
    """Print the card of a recipe's data: where to get them, layout, licences.

    Example: mmcl recipes card emoji
    """
    from mmcl.config import find_recipe
    from mmcl.errors import ConfigError

    recipe = find_recipe(name)
    named = re.search(r"data_cards/\w+\.md", recipe.read_text(encoding="utf-8"))
    # Cards lie beside configs/ in the installed package, and beside recipes/ in a checkout.
    homes = (recipe.resolve().parents[1], recipe.resolve().parents[2])
    found = next((home / named[0] for home in homes if (home / named[0]).is_file()), None) if named else None
    if found is None:
        raise ConfigError(f"{recipe} names no data card that is there")
    typer.echo(found.read_text(encoding="utf-8"), nl=False)


@app.command(no_args_is_help=True)
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.")],
    target: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="File to write; default NAME.yaml here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a recipe out to edit.

    Example: mmcl recipes copy quickstart my.yaml
    """
    from mmcl.config import find_recipe
    from mmcl.errors import ConfigError

    source = find_recipe(name)
    target = target or Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise ConfigError(f"{target} exists; choose another name or pass --force")
    try:
        target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target} cannot be written ({error.strerror})") from error
    typer.echo(f"{target}  (run it with: mmcl train {target})")


@app.command()
def keys() -> None:
    """List every recipe key with its default and meaning.

    Example: mmcl recipes keys
    """
    import shutil
    import textwrap

    from mmcl.config import Recipe, describe_keys

    width = min(shutil.get_terminal_size().columns, 120)
    for key, default, meaning in describe_keys(Recipe):
        typer.echo(f"{key}: {default}" if default else f"{key}  (every recipe needs it)")
        if meaning:
            typer.echo(textwrap.fill(meaning, width, initial_indent="    ", subsequent_indent="    "))
