"""The run folder: its config, its metrics, its list of skipped rows, and the guard against overwriting another run."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from mmcl.batch import SkippedRow
from mmcl.errors import ConfigError

CONFIG, METRICS, SKIPPED = "config.yaml", "metrics.jsonl", "skipped.jsonl"

# What may differ when a run goes on: how long, how it is watched, where it reads; never what is learnt.
_RESUMABLE = ("run.dir", "run.tracker", "run.num_processes", "train.max_minutes", "train.log_every", "data.workers")
_RESUMABLE_SECTIONS = ("evaluate", "checkpoint", "smoke")


def environment() -> dict[str, Any]:
    """Package versions and the git commit of the working directory, for the record."""
    packages = ("mmcl", "torch", "torchvision", "transformers", "timm", "open_clip_torch", "accelerate")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {"packages": versions, "git_commit": git.stdout.strip() if git.returncode == 0 else None}


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


class RunFolder:
    """The folder one training writes. Only the main process writes in it.

    Args:
        path: the folder.
        writes: whether this process is the one that writes.
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """Where the best model is."""
        return self.path / "model"

    @property
    def is_taken(self) -> bool:
        """Whether another run, finished or not, has written here."""
        return (self.path / CONFIG).exists()

    def open(self, recipe: dict[str, Any], *, resume: bool) -> None:
        """Make the folder and write ``config.yaml``; with ``resume``, check that it holds this very recipe.

        Raises:
            ConfigError: the folder holds another run, cannot be written, or (resume) holds none or a different recipe.
        """
        if resume:
            self._check_same(recipe)
        elif self.is_taken:
            raise ConfigError(
                f"{self.path} already holds a run; go on with it (--resume), write elsewhere (run.dir=FOLDER), "
                f"or delete the folder"
            )
        if not self.writes:
            return
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not resume:
                text = yaml.safe_dump({**recipe, "environment": environment()}, sort_keys=False, allow_unicode=True)
                self._replace(self.path / CONFIG, text)
        except OSError as error:
            raise ConfigError(f"run folder {self.path} cannot be written ({error.strerror or error}); set run.dir") from error
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"run folder {self.path} cannot be written (no permission); set run.dir")

    def _check_same(self, recipe: dict[str, Any]) -> None:
        if not self.is_taken:
            raise ConfigError(f"--resume: {self.path} holds no run; leave --resume out to start one, or set run.dir")
        before = yaml.safe_load((self.path / CONFIG).read_text(encoding="utf-8"))
        before.pop("environment", None)
        old, new = _flat(before), _flat(recipe)
        changed = [
            f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in _RESUMABLE and key.split(".")[0] not in _RESUMABLE_SECTIONS
        ]
        if changed:
            raise ConfigError(
                f"--resume: {self.path} was begun with another recipe ({'; '.join(changed[:5])}); "
                f"give the same keys, or start a new run with run.dir"
            )

    @staticmethod
    def _replace(path: Path, text: str) -> None:
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)

    def append_metrics(self, record: dict[str, Any]) -> None:
        """One line of ``metrics.jsonl``."""
        if self.writes:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget lines of steps that a resumed run will write again, and a half-written last line."""
        path = self.path / METRICS
        if not self.writes or not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line).get("step", 0) <= step:
                    kept.append(line)
            except json.JSONDecodeError:
                continue
        self._replace(path, "".join(line + "\n" for line in kept))

    def append_skipped(self, rows: list[SkippedRow]) -> None:
        """Rows that were left out, one a line of ``skipped.jsonl``."""
        if self.writes and rows:
            with (self.path / SKIPPED).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows)

    def read_skipped(self) -> list[SkippedRow]:
        """The rows listed so far."""
        path = self.path / SKIPPED
        if not path.exists():
            return []
        return [SkippedRow(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line]

    def write_json(self, name: str, value: Any) -> Path:
        """A JSON file of the run."""
        path = self.path / name
        if self.writes:
            self._replace(path, json.dumps(value, indent=2, ensure_ascii=False))
        return path
