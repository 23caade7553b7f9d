"""Measurements in processes of their own, so that each begins with no memory taken by another."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmcl
from mmcl import errors
from mmcl.config import Recipe
from mmcl.errors import MmclError, TrainingError

# What ``mmcl`` asks of glibc's allocator (``mmcl.cli.memory``), asked through the environment: it decides the peak.
ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
_KEPT_LINES = 12  # of what a process that failed wrote

Progress = Callable[[str, int, int], None]


class OutOfMemoryError(TrainingError):
    """A measurement was ended by the system, or its memory ran out."""


class Measuring:
    """Starts measurements of one plan, and throws away all that they wrote.

    Args:
        progress: told how far data and features of a measurement are; None: nobody is.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._folder = Path(tempfile.mkdtemp(prefix="mmcl-plan-"))
        self._real = _cache_folder()
        self._number = 0
        self._mirror_cache()

    def __enter__(self) -> Measuring:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _mirror_cache(self) -> None:
        """What is kept elsewhere is found, and what is new is written here: the tokens of captions above all."""
        cache = self._folder / "cache"
        cache.mkdir()
        for kept in sorted(self._real.iterdir()) if self._real.is_dir() else ():
            if kept.name == "features" or not kept.is_dir():
                continue
            (cache / kept.name).mkdir()
            for entry in kept.iterdir():
                with contextlib.suppress(OSError):  # a file system without links: it is made anew
                    (cache / kept.name / entry.name).symlink_to(entry.resolve())

    def written_tokens(self) -> int:
        """Bytes of captions' tokens that the measurements made, and a training would."""
        made = (self._folder / "cache" / "tokens").glob("*")
        folders = [folder for folder in made if folder.is_dir() and not folder.is_symlink()]
        return sum(path.stat().st_size for folder in folders for path in folder.iterdir())

    def measure(self, recipe: Recipe, **request: Any) -> dict[str, Any]:
        """Run one measurement; see ``measurement.Measurement`` for the request and the answer.

        Raises:
            OutOfMemoryError: memory ran out.
            MmclError: what the training would say.
        """
        self._number += 1
        section = recipe.train.feature_cache
        features = Path(section.dir).expanduser() if section.dir else self._real / "features"
        request |= {
            "recipe": recipe.model_dump(mode="json"),
            "features": str(features),
            "folder": str(self._folder / f"run-{self._number}"),
            "clean": str(self._folder),
            "spawned": time.time(),
        }
        try:
            return self._run(request)
        finally:
            shutil.rmtree(request["folder"], ignore_errors=True)

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the measurement.
        with (self._folder / "errors.txt").open("w+b") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "mmcl.plan.probe"],
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
            try:
                # Left open: the measurement ends by itself when this process is gone.
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
                found = self._listen(process)
                process.wait()
            except BrokenPipeError:
                process.wait()
                found = {}
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                process.stdout.close()
                with contextlib.suppress(OSError):
                    process.stdin.close()
            if "answer" in found:
                return found["answer"]
            said.seek(0)
            raise _failure(found.get("error"), process.returncode, said.read().decode("utf-8", "replace"))

    def _listen(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for message in _messages(process.stdout):
            if "progress" in message and self._progress is not None:
                self._progress(*message["progress"])
            found |= {key: value for key, value in message.items() if key != "progress"}
        return found

    def _environment(self) -> dict[str, str]:
        home = str(Path(mmcl.__file__).resolve().parents[1])
        paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            **ALLOCATOR,
            "PYTHONPATH": os.pathsep.join(paths),
            "MMCL_CACHE": str(self._folder / "cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }


def _cache_folder() -> Path:
    return Path(os.environ.get("MMCL_CACHE") or "~/.cache/mmcl").expanduser()


def _messages(lines: Any) -> Iterator[dict[str, Any]]:
    """The messages among what a process writes; libraries may write lines of their own."""
    for line in lines:
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict):
                yield message


def _failure(error: list[str] | None, code: int, said: str) -> MmclError:
    if error is not None:
        name, message = error
        kind = getattr(errors, name, TrainingError)
        return OutOfMemoryError(message) if "memory ran out" in message else kind(message)
    if code == -9 or "out of memory" in said.lower() or "can't allocate memory" in said:
        return OutOfMemoryError("memory ran out")
    last = "\n".join(said.strip().splitlines()[-_KEPT_LINES:]) or f"it ended with code {code}"
    return TrainingError(
        f"a measurement failed, as the training itself might; start it with mmcl train --smoke:\n{last}"
    )
