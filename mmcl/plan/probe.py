"""One measurement, in a process of its own: a few real steps of a recipe, and what a training does around them.

Started as ``python -m mmcl.plan.probe`` by ``processes``; reads a request and writes its answer, both JSON. Nothing of
it stays: the weights, the run folder and (unless asked) the features are thrown away.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mmcl.config import Recipe, recipe_from_tree
from mmcl.errors import MmclError
from mmcl.logs import is_main_process


class _Warnings(logging.Handler):
    """What mmcl warns of while it starts."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno == logging.WARNING:
            self.said.append(record.getMessage())


def _end_with_parent(folder: Path) -> None:
    """End, and leave nothing behind, when the process that asked is gone, however it went."""

    def wait() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock would be held while Python ends
            continue
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _tell(kind: str, value: Any) -> None:
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


def _progress(title: str, done: int, total: int) -> None:
    _tell("progress", [title, done, total])


def measure(recipe: Recipe, request: dict[str, Any], heard: _Warnings) -> dict[str, Any]:
    """Everything that the request asks for; see ``measurement.Measurement``."""
    from mmcl.plan.measurement import Measurement

    return Measurement(recipe, request, progress=_progress, said=lambda: heard.said).run()


def main() -> None:
    """Answer the request on the first line of the standard input."""
    begun = time.time()
    with open(0, "rb", buffering=0, closefd=False) as asked:  # nothing behind the line is read ahead
        request = json.loads(asked.readline())
    _end_with_parent(Path(request["clean"]))
    request.setdefault("spawned", begun)
    heard = _Warnings()
    logging.getLogger("mmcl").addHandler(heard)
    logging.getLogger("mmcl").propagate = False
    try:
        answer = measure(recipe_from_tree(request["recipe"], source="the recipe"), request, heard)
    except MmclError as error:
        _tell("error", [type(error).__name__, str(error)])
        sys.exit(1)
    if is_main_process():
        _tell("answer", answer)


if __name__ == "__main__":
    main()
