"""`mmcl train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmcl.cli.console import check_json_file, write_json

if TYPE_CHECKING:
    from mmcl.config import Recipe


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="YAML file, or the name of a shipped recipe (see: mmcl recipes).")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, such as run.seed=1.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps, to see that everything fits.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe, and what recipe: auto chooses, without training.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the closing metrics as JSON.")
    ] = None,
) -> None:
    """Train a recipe.

    Examples:

      mmcl train quickstart

      mmcl train auto data.path=path/to/your/pairs

      mmcl train auto data.path=path/to/your/pairs --dry-run > my.yaml

      mmcl train emoji data.path=path/to/emoji run.dir=runs/emoji

      mmcl train my.yaml train.batch_size=512 optimizer.learning_rate=5e-4

      mmcl train my.yaml --resume

    On several processes: accelerate launch recipes/train.py --config my.yaml key=value ...
    """
    check_json_file(json_file)
    from mmcl.config import load_recipe

    loaded = load_recipe(recipe, overrides or [], smoke=smoke)  # a wrong key is told before anything heavy loads
    if dry_run:
        _show(loaded, json_file)
        return

    from mmcl.build import train as run_training
    from mmcl.cli.display import TrainingDisplay, closing_table
    from mmcl.logs import is_main_process

    with TrainingDisplay(loaded) as display:
        run = run_training(
            loaded,
            resume=resume,
            display=display,
            progress=display.work_progress,
            announce=display.announce,
        )
    if not is_main_process():
        return
    closing_table(run, display.console)
    effect = {} if run.effect is None else {"before_and_after": run.effect.to_dict()}
    progress = run.result.progress
    best = {"step": progress.best_step, "metric": run.recipe.evaluate.metric, "validation": progress.best}
    ended = {"run": str(run.folder), "stopped_by": run.result.stopped_by, "best": best}
    write_json(json_file, {**ended, **run.metrics, **effect})


def _show(recipe: Recipe, json_file: Path | None) -> None:
    """Print the recipe that would be trained, as YAML that runs by itself."""
    import yaml

    if recipe.recipe is None:
        values = recipe.model_dump(mode="json")
        typer.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), nl=False)
        write_json(json_file, values)
        return
    from rich.console import Console

    from mmcl.auto_recipe import resolve_recipe
    from mmcl.cli.console import watch_work

    with watch_work(Console(stderr=True)) as progress:  # standard output is the recipe alone
        _, choice = resolve_recipe(recipe, progress=progress)
    typer.echo(choice.recipe_text(), nl=False)
    write_json(json_file, choice.as_dict())
