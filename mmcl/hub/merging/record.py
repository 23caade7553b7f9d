"""A merged model's folder: the model, and `merge.json` that says what it was made of."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcl
from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.saving import DESCRIPTION, save_pretrained

RECORD = "merge.json"


@dataclass(frozen=True)
class MergeRecord:
    """What a merged model was made of.

    Attributes:
        kind: ``"wise_ft"``, ``"soup"`` or ``"lora"``.
        sources: what was merged, as it was named.
        settings: what else says how, such as ``alpha`` or ``weights``.
        metrics: data name -> what was measured of the merged model; empty where nothing was.
    """

    kind: str
    sources: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "kind": self.kind,
            "sources": list(self.sources),
            **self.settings,
            "metrics": {name: dict(found) for name, found in self.metrics.items()},
            "mmcl_version": mmcl.__version__,
        }


def check_out(out: Path, sources: Sequence[str], *, force: bool = False) -> None:
    """Refuse a folder that cannot be written, or in which something would be lost, before the work is done.

    Args:
        out: where the merged model is to go.
        sources: what is read, as it was named.
        force: whether a model that is there is replaced; files of other names stay.

    Raises:
        ConfigError: it is a file, one of the sources, or not empty without ``force``; its parent is missing.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"-o {out}: it is a file; name a folder")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"-o {out}: there is no folder {out.absolute().parent}; make it first")
    if not os.access(out if out.is_dir() else out.absolute().parent, os.W_OK):
        raise ConfigError(f"-o {out}: it cannot be written (no permission)")
    for source in sources:
        inside = [Path(source).expanduser().resolve(), (Path(source).expanduser() / "model").resolve()]
        if out.resolve() in inside:
            raise ConfigError(f"-o {out}: it is the source {source}, which would be overwritten; name another folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ConfigError(f"-o {out}: the folder is not empty; name another one, or give --force to replace its model")


def write_merged(model: DualEncoder, out: str | Path, record: MergeRecord, *, force: bool = False) -> Path:
    """Write a merged model with its record, whole or not at all.

    Args:
        model: the merged model.
        out: a folder; made when missing.
        record: what it was made of.
        force: see `check_out`.

    Returns:
        The folder.

    Raises:
        ConfigError: see `check_out`; it cannot be written.
    """
    out = Path(out)
    check_out(out, record.sources, force=force)
    partial = out.absolute().with_name(f".{out.absolute().name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of one that was killed
        save_pretrained(model, partial)
        text = json.dumps(record.to_dict(), indent=2, ensure_ascii=False)
        (partial / RECORD).write_text(text + "\n", encoding="utf-8")
        _move_in(partial, out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}; name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _move_in(partial: Path, out: Path) -> None:
    """Put what was written into place; the description, without which a folder holds no model, goes first and last."""
    if not out.is_dir() or not any(out.iterdir()):
        os.replace(partial, out)
        return
    for stale in (DESCRIPTION, "config.json", RECORD):
        (out / stale).unlink(missing_ok=True)
    for file in sorted(partial.iterdir(), key=lambda path: path.name == DESCRIPTION):
        target = out / file.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(file, target)
