"""`mmcl train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import check_json_file, write_json


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="YAML file, or the name of a shipped recipe (see: mmcl recipes).")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, such as run.seed=1.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps, to see that everything fits.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the closing metrics as JSON.")
    ] = None,
) -> None:
    """Train a recipe.

    Examples:

      mmcl train quickstart

      mmcl train emoji data.path=path/to/emoji run.dir=runs/emoji

      mmcl train my.yaml train.batch_size=512 optimizer.learning_rate=5e-4

      mmcl train my.yaml --resume

    On several processes: accelerate launch recipes/train.py --config my.yaml key=value ...
    """
    check_json_file(json_file)
    from mmcl.config import load_recipe

    loaded = load_recipe(recipe, overrides or [], smoke=smoke)  # a wrong key is told before anything heavy loads

    from mmcl.build import train as run_training
    from mmcl.cli.display import TrainingDisplay, closing_table
    from mmcl.logs import is_main_process

    with TrainingDisplay(loaded) as display:
        run = run_training(loaded, resume=resume, display=display, progress=display.work_progress)
    if not is_main_process():
        return
    closing_table(run, display.console)
    write_json(json_file, {"run": str(run.folder), "stopped_by": run.result.stopped_by, **run.metrics})
