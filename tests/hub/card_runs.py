"""Runs that model cards are written from."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).parents[1] / "training"))

from small_runs import small_run

from mmcl.data.sources.loading import load

SHAPES = "shapes?train=96&validation=24&test=24&test_seen=24&image_size=32"
TOKEN = "hf_" + "Secret" * 6


def train_run(folder: Path) -> Path:
    """Six steps on drawn scenes, judged on two splits by three tasks."""
    return small_run(
        folder,
        f"data.path={SHAPES}",
        "train.max_steps=6",
        "evaluate.every_steps=3",
        "evaluate.at_end=true",
        "evaluate.tasks=[retrieval,zeroshot,foils]",
        "evaluate.extra_splits=[test_seen]",
    ).folder


def changed(run: Path, folder: Path, **sections: dict) -> Path:
    """A copy of a run whose recipe says something else; a section's keys are added to those it has."""
    shutil.copytree(run, folder, symlinks=True)
    recipe = yaml.safe_load((folder / "config.yaml").read_text())
    for name, keys in sections.items():
        recipe[name] = {**recipe[name], **keys} if isinstance(keys, dict) else keys
    (folder / "config.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


def write_pairs(folder: Path, rows: int = 12) -> Path:
    """A folder of pictures with captions, labels, domains and a language, as people have them."""
    from torchvision.transforms.v2.functional import to_pil_image

    scenes = load(f"shapes?test={rows}&image_size=32:test")
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        lines = []
        for row in range(rows):
            to_pil_image(scenes.images.read(row)).save(folder / split / f"{row}.png")
            lines.append(
                {
                    "file_name": f"{row}.png",
                    "text": f"{scenes.texts(row)[0]} {row}",
                    "label": "even" if row % 2 == 0 else "odd",
                    "domain": "drawn",
                    "lang": "en",
                }
            )
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder
