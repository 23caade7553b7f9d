"""Memory that a piece of work takes at its peak, measured in a fresh process that does nothing else.

Started as ``python peak_memory.py MODULE FUNCTION SETTINGS ARGUMENTS``: FUNCTION of MODULE gets the settings and the
arguments, prepares, and returns the work as a call without arguments; the bytes by which it raises the process's peak
are printed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

PAGE = 4096  # what is less than this cannot be told from nothing


class PeakError(Exception):
    """The fresh process failed."""


def peak_memory(module: str, function: str, settings: object, **arguments: object) -> int:
    """Bytes beyond those held when everything is prepared, in a fresh process.

    Args:
        module: of this folder.
        function: ``function(settings, **arguments) -> work``; ``work()`` is measured.
        settings: a ``measuring.Settings``.
        arguments: what JSON can hold.

    Raises:
        PeakError: the process failed, for want of memory or otherwise.
    """
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    threads = str(settings.threads)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": threads}
    command = [sys.executable, __file__, module, function, json.dumps(asdict(settings)), json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"]
        raise PeakError(lines[-1])
    return int(done.stdout.split()[-1])


def growth(work: Callable[[], object]) -> int:
    """Bytes by which ``work`` raises this process's memory at its peak; a page at least."""
    gc.collect()
    with _peak() as read:
        work()
    return max(PAGE, read())


@contextlib.contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """The kernel's own high-water mark where it can be set back; elsewhere memory is looked at every millisecond."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        before = _status("VmRSS")
    except (OSError, KeyError):
        with _watched() as read:
            yield read
        return
    yield lambda: _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024


@contextlib.contextmanager
def _watched() -> Iterator[Callable[[], int]]:
    import psutil

    process, done = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, process.memory_info().rss)
            time.sleep(0.001)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most - before
    finally:
        done.set()
        thread.join()


def main() -> None:
    """Do the work that the arguments name, and print its peak."""
    from measuring import Settings

    module, function, settings, arguments = sys.argv[1:]
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(settings).items()}
    settings = Settings(**values)
    settings.prepare()
    work = getattr(importlib.import_module(module), function)(settings, **json.loads(arguments))
    print(growth(work))


if __name__ == "__main__":
    main()
