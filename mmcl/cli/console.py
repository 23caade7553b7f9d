"""How commands speak: one console, one way to show progress, one way to write ``--json``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl.errors import ConfigError
from mmcl.logs import is_main_process

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.embedder import CachedEmbedder


def make_console(*, quiet: bool = False) -> Console:
    """A console that shows names as they are: ``data/emoji:train:`` is no emoji code. The main process alone speaks."""
    from rich.console import Console

    return Console(quiet=quiet or not is_main_process(), emoji=False, highlight=False)


def check_json_file(path: Path | None) -> None:
    """Refuse a ``--json`` file that could not be written, before the work is done and not after it.

    Raises:
        ConfigError: its folder is missing or not writable, or it is itself a folder.
    """
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"--json {path}: it is a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--json {path}: there is no folder {path.absolute().parent}; make it first")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ConfigError(f"--json {path}: it cannot be written (no permission)")


def write_json(path: Path | None, value: Mapping[str, Any]) -> None:
    """Write a command's result where ``--json`` was given; the main process alone does."""
    if path is not None and is_main_process():
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def watch_work(console: Console) -> Iterator[Callable[[str, int, int], None] | None]:
    """A callback (what, done, total) with a progress bar for each kind of work; None where the console is no terminal.

    A bar goes when its work is done.
    """
    if not console.is_terminal or console.quiet:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def progress(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = bars.add_task(title, total=total)
            bars.update(tasks[title], completed=done, total=total, refresh=done >= total)
            if done >= total:
                bars.remove_task(tasks.pop(title))

        yield progress


@contextmanager
def watch_embedding(embedder: CachedEmbedder, console: Console) -> Iterator[None]:
    """Within it, what the embedder embeds shows a progress bar; nothing where the console is no terminal."""
    with watch_work(console) as progress:
        embedder.progress = progress
        try:
            yield
        finally:
            embedder.progress = None
