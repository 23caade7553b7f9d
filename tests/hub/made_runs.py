"""Run folders as training leaves them, without the training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.saving import save_pretrained

METRICS = {"retrieval/i2t_recall@1": 0.5, "retrieval/t2i_recall@1": 0.4, "retrieval/t2i_recall@1_ci95": [0.3, 0.5]}


def make_run(folder: Path, model: DualEncoder, *, finished: bool = True, judged: bool = True, **keys: Any) -> Path:
    """A run of ``model`` on data that are not on this machine; ``keys`` are added to its recipe."""
    save_pretrained(model, folder / "model")
    recipe = {
        "name": "made",
        "data": {"path": "/home/someone/data/emoji", "split": {"train": "train", "validation": None, "test": "test"}},
        "model": {"text": {"name": "/home/someone/models/bert"}},
        "evaluate": {"tasks": ["retrieval"]},
        "run": {"dir": str(folder), "seed": 0},
        "environment": {"packages": {"torch": "2.15.0"}, "git_commit": None},
        **keys,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 10, "epoch": 1, "loss": 1.0}) + "\n")
    last = folder / "checkpoints" / "step_00000010"
    last.mkdir(parents=True)
    (last / "progress.json").write_text(json.dumps({"step": 10, "finished": finished}))
    (last / "states.pt").write_bytes(b"\x80\x04never goes")
    (last.parent / "last").symlink_to(last.name)
    if judged:
        (folder / "evaluation.json").write_text(json.dumps({"test": METRICS}))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
