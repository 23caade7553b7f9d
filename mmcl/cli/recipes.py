"""`mmcl recipes`: the recipes that ship with mmcl."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List, show or copy the recipes that ship with mmcl.", invoke_without_command=True)


def _about(path: Path) -> str:
    """A recipe's own words: its first comment line that is not the launch command."""
    comments = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((line for line in comments if line and not line.startswith(("mmcl ", "accelerate "))), "")


@app.callback()
def recipes(context: typer.Context) -> None:
    """List the recipes. Example: mmcl recipes"""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from mmcl.config import shipped_recipes

    table = Table("recipe", "what it trains", title="mmcl train RECIPE")
    for name, path in sorted(shipped_recipes().items()):
        table.add_row(name, _about(path))
    Console().print(table)


@app.command(no_args_is_help=True)
def show(name: Annotated[str, typer.Argument(help="A shipped recipe.")]) -> None:
    """Print a recipe. Example: mmcl recipes show quickstart"""
    from mmcl.config import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@app.command(no_args_is_help=True)
def copy(
    name: Annotated[str, typer.Argument(help="A shipped recipe.")],
    target: Annotated[Path | None, typer.Argument(help="File to write; default NAME.yaml here.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a recipe out to edit. Example: mmcl recipes copy quickstart my.yaml"""
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
    """List every recipe key with its default and meaning. Example: mmcl recipes keys"""
    from rich.console import Console
    from rich.table import Table

    from mmcl.config import Recipe, describe_keys

    table = Table("key", "default", "meaning", title="recipe keys")
    for key, default, meaning in describe_keys(Recipe):
        table.add_row(key, default, meaning)
    Console().print(table)
