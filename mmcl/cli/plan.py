"""`mmcl plan`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.errors import ConfigError

_UNITS = {"": 2**30, "g": 2**30, "m": 2**20, "k": 2**10, "t": 2**40}


def plan(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="YAML file, or the name of a shipped recipe (see: mmcl recipes).")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, such as train.batch_size=64."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, metavar="N", help="Steps that are timed at most.")] = 20,
    memory: Annotated[
        str | None,
        typer.Option("--memory", metavar="SIZE", help="Plan for a machine with so much, such as 16GiB; default: free."),
    ] = None,
    keep_features: Annotated[
        bool, typer.Option("--keep-features", help="Compute frozen towers' features now, and keep them for training.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the plan as JSON.")] = None,
) -> None:
    """Say what a training will take: parameters, memory, time, disk, and what is likely to go wrong.

    A few steps are really made, in processes of their own, and thrown away: small batches that give a line for the
    memory, then the wanted batch, which checks the line, with an evaluation, a checkpoint and the judgement at the end.
    Nothing is written into the run folder or the caches. A minute or two; temporary files go where TMPDIR says.

    Examples:

      mmcl plan quickstart

      mmcl plan emoji data.path=path/to/emoji train.batch_size=1024 --json plan.json

      mmcl plan my.yaml --memory 16GiB --steps 50
    """
    check_json_file(json_file)
    limit = None if memory is None else _bytes(memory)
    from mmcl.config import load_recipe

    loaded = load_recipe(recipe, overrides or [])  # a wrong key is told before anything is measured
    from mmcl.plan.planning import make_plan

    console = make_console()
    with watch_work(console) as progress:
        found = make_plan(loaded, steps=steps, memory=limit, keep_features=keep_features, progress=progress)
    from rich.text import Text

    for line in found.sentences():
        head, colon, rest = line.partition(":")
        console.print(Text.assemble((head + colon, "bold"), rest), soft_wrap=True)
    write_json(json_file, found.to_dict())


def _bytes(text: str) -> float:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([gmkt]?)(?:i?b)?\s*", text.lower())
    if match is None or not float(match[1]) > 0:
        raise ConfigError(f"--memory is {text!r}; want a size such as 16GiB, 8G or 512MiB")
    return float(match[1]) * _UNITS[match[2]]
