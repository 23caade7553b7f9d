"""The run folder: its config, its metrics, its list of skipped rows, and the guard against overwriting another run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from mmcl.batch import SkippedRow
from mmcl.config import parse_yaml, recipe_from_tree
from mmcl.errors import ConfigError

CONFIG, METRICS, SKIPPED, FINDINGS = "config.yaml", "metrics.jsonl", "skipped.jsonl", "findings.jsonl"
CHECKPOINTS, LAST, MODEL = "checkpoints", "last", "model"

# What may differ when a run goes on: how long, how it is watched, where it reads, in what pieces; never what is learnt.
_RESUMABLE = (
    *("run.dir", "run.tracker", "run.num_processes"),
    *("train.max_minutes", "train.log_every", "train.micro_batch_size", "train.doctor"),
    *("data.workers", "data.prefetch", "data.cache_tokens"),
)
_RESUMABLE_SECTIONS = ("evaluate", "checkpoint", "smoke")


def environment() -> dict[str, Any]:
    """Package versions, the git commit of the working directory, and the machine, for the record; no host name."""
    packages = ("mmcl", "torch", "torchvision", "transformers", "timm", "open_clip_torch", "accelerate")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "packages": versions,
        "git_commit": _git_commit(),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "processors": os.cpu_count(),
        "device": _device_name(),
    }


def _device_name() -> str:
    """What the run computes on: the GPU with its memory, else the processor."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        number = torch.cuda.device_count()
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        return f"{number} × {name}" if number > 1 else name
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.processor() or platform.machine()


def _git_commit() -> str | None:
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return None
    return git.stdout.strip() if git.returncode == 0 else None


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
        return self.path / CHECKPOINTS

    @property
    def model(self) -> Path:
        """Where the best model is."""
        return self.path / MODEL

    @property
    def skipped(self) -> Path:
        """Where rows that could not be used are listed."""
        return self.path / SKIPPED

    def prepare(self, recipe: dict[str, Any], *, resume: bool) -> None:
        """Check, before anything costs time, that the run may write here; makes the folder.

        Raises:
            ConfigError: the folder holds another run, cannot be written, or (resume) holds none or a different recipe.
        """
        if resume:
            self._check_same(recipe)
        elif holds := [
            name for name in (CONFIG, METRICS, MODEL, f"{CHECKPOINTS}/{LAST}") if (self.path / name).exists()
        ]:
            raise ConfigError(
                f"{self.path} already holds a run ({', '.join(holds)}); go on with it (--resume), write elsewhere "
                f"(run.dir=FOLDER), or delete the folder"
            )
        if not self.writes:
            return
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
            if not resume:
                for name in (SKIPPED, FINDINGS):  # of a start that failed before its first step
                    (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"run folder {self.path} cannot be written ({error.strerror or error}); set run.dir"
            ) from error

    def begin(self, recipe: dict[str, Any]) -> None:
        """Write ``config.yaml``: from now on the folder belongs to this run."""
        if self.writes:
            text = yaml.safe_dump({**recipe, "environment": environment()}, sort_keys=False, allow_unicode=True)
            self._replace(self.path / CONFIG, text)

    def _check_same(self, recipe: dict[str, Any]) -> None:
        if not (self.path / CONFIG).is_file():
            raise ConfigError(f"--resume: {self.path} holds no run; leave --resume out to start one, or set run.dir")
        before = parse_yaml((self.path / CONFIG).read_text(encoding="utf-8"), source=str(self.path / CONFIG))
        if not isinstance(before, dict) or "environment" not in before:  # it is written last
            raise ConfigError(
                f"--resume: {self.path / CONFIG} is cut short: its last section, environment, is not there; copy the "
                f"file from a backup, or start a new run with run.dir"
            )
        before.pop("environment")
        # As a recipe, so that keys which came with a later version have their defaults and do not count as changed.
        old, new = (
            _flat(recipe_from_tree(before, source=str(self.path / CONFIG)).model_dump(mode="json")),
            _flat(recipe),
        )
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

    def append_metrics(self, record: dict[str, Any]) -> dict[str, Any]:
        """One line of ``metrics.jsonl``; the record as it was written."""
        record = _finite(record)
        if self.writes:
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        return record

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, without a half-written last one."""
        return _read_lines(self.path / METRICS)

    def drop_metrics_after(self, step: int, *, judged: int | None = None) -> None:
        """Forget lines of steps that a resumed run will write again, and a half-written last line.

        Args:
            step: the last that was kept.
            judged: the last that was judged by then; None: as ``step``.
        """
        path = self.path / METRICS
        if self.writes and path.exists():
            lines = self.read_metrics()
            last = [step if judged is None or "loss" in line or "epoch" not in line else judged for line in lines]
            kept = [json.dumps(line) + "\n" for line, until in zip(lines, last) if line.get("step", 0) <= until]
            self._replace(path, "".join(kept))

    def append_finding(self, record: dict[str, Any]) -> None:
        """One line of ``findings.jsonl``."""
        if self.writes:
            with (self.path / FINDINGS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(_finite(record), ensure_ascii=False) + "\n")

    def read_findings(self) -> list[dict[str, Any]]:
        """The lines of ``findings.jsonl``, each with its step."""
        return _read_lines(self.path / FINDINGS)

    def drop_findings_after(self, step: int) -> None:
        """Forget findings of steps that a resumed run will make again."""
        path = self.path / FINDINGS
        if self.writes and path.exists():
            kept = [record for record in self.read_findings() if record.get("step", 0) <= step]
            self._replace(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def append_skipped(self, rows: list[SkippedRow]) -> None:
        """Rows that were left out, one a line of ``skipped.jsonl``."""
        if self.writes and rows:
            lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in rows]
            if self.skipped.exists() and not self.skipped.read_bytes().endswith(b"\n"):
                lines.insert(0, "\n")  # a kill left half a line
            with self.skipped.open("a", encoding="utf-8") as file:
                file.writelines(lines)

    def read_skipped(self) -> list[SkippedRow]:
        """The rows listed so far."""
        return [SkippedRow(**record) for record in _read_lines(self.skipped)]

    def write_json(self, name: str, value: Any) -> Path:
        """A JSON file of the run."""
        path = self.path / name
        if self.writes:
            self._replace(path, json.dumps(_finite(value), indent=2, ensure_ascii=False))
        return path


def _finite(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
