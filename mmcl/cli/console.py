"""How commands speak: one console, one progress bar for images that are read, one way to write ``--json``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from torch import Tensor

    from mmcl.data.dataset import ImageStore, ImageTextDataset


def make_console(*, quiet: bool = False) -> Console:
    """A console that shows names as they are: ``data/emoji:train:`` is no emoji code."""
    from rich.console import Console

    return Console(quiet=quiet, emoji=False, highlight=False)


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
    """Write a command's result where ``--json`` was given."""
    if path is not None:
        path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class _WatchedImages:
    """An image store that moves a progress bar on with every image read; each selection of rows has its own bar."""

    def __init__(self, images: ImageStore, progress: Progress) -> None:
        self._images, self._progress = images, progress
        self._task: TaskID | None = None

    def __len__(self) -> int:
        return len(self._images)

    def read(self, row: int) -> Tensor:
        if self._task is None:
            self._task = self._progress.add_task("images", total=len(self))
        self._progress.advance(self._task)
        return self._images.read(row)

    def describe(self, row: int) -> str:
        return self._images.describe(row)

    def select(self, rows: np.ndarray) -> _WatchedImages:
        return _WatchedImages(self._images.select(rows), self._progress)

    def fingerprint(self) -> str:
        return self._images.fingerprint()


@contextmanager
def watch_images(dataset: ImageTextDataset, console: Console) -> Iterator[None]:
    """Within it, reading the data set's images shows a progress bar; nothing where the console is no terminal."""
    if not console.is_terminal:
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    images = dataset.images
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        dataset.images = _WatchedImages(images, progress)
        try:
            yield
        finally:
            dataset.images = images
