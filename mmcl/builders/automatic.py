"""`recipe: auto` in a run: chosen once, on the main process, written into the run folder, and kept on resume."""

from __future__ import annotations

import os
from collections.abc import Callable

from mmcl.auto_recipe import Choice, resolve_recipe, resumed_recipe
from mmcl.config import Recipe, parse_yaml
from mmcl.errors import ConfigError, MmclError
from mmcl.logs import get_logger
from mmcl.training.gather import broadcast_object, rank
from mmcl.training.runs import CONFIG, RunFolder

log = get_logger(__name__)

CHOICES = "choices.md"


def settle_recipe(
    recipe: Recipe,
    run: RunFolder,
    *,
    resume: bool,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Recipe:
    """What a run really trains: the recipe itself, or what ``recipe: auto`` chooses.

    Every process gets the main process's choice, which ``choices.md`` in the run folder explains. A run that goes on
    keeps what was chosen when it began, with the keys that are given now.

    Args:
        recipe: as it was loaded.
        run: the run folder.
        resume: whether the run goes on.
        announce: told the paragraph, on the main process; None: it is logged.
        progress: told how far the looking is.

    Raises:
        ConfigError: the folder holds another run, or (resume) none; nothing is chosen then.
        DataError: the data cannot be read.
    """
    if recipe.recipe is None:
        return recipe
    if resume:
        path = run.path / CONFIG
        if not path.is_file():
            raise ConfigError(f"--resume: {run.path} holds no run; leave --resume out to start one, or set run.dir")
        before = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
        before.pop("environment", None)
        return resumed_recipe(recipe, before, source=str(path))
    run.prepare({}, resume=False)  # another run in the folder is told before half a minute is spent
    settled: tuple[Recipe, Choice | None] | MmclError | None = None
    if rank() == 0:
        try:
            settled = resolve_recipe(recipe, progress=progress)
        except MmclError as error:
            settled = error  # the others must hear of it, or they would wait for ever
    settled = broadcast_object(settled)
    if isinstance(settled, MmclError):
        raise settled
    resolved, choice = settled
    if choice is not None and run.writes:
        _write(run, choice)
        if announce is not None:
            announce(choice.paragraph)
        else:
            log.info("%s", choice.paragraph)
    return resolved


def _write(run: RunFolder, choice: Choice) -> None:
    partial = run.path / f".{CHOICES}.partial"
    partial.write_text(choice.markdown(), encoding="utf-8")
    os.replace(partial, run.path / CHOICES)
