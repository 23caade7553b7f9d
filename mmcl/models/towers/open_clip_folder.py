"""open_clip's folders whose towers are found on the Hub, opened without it.

open_clip builds a text tower of transformers from the config that ``hf_model_name`` leads to, a Hub id, also where the
folder holds that config itself; and timm builds an image tower from the config of a repository that is named as
``hf-hub:owner/name``.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcl.models.towers.transformers_loading import parse_json

CONFIG = "open_clip_config.json"
# Beside open_clip's keys: what mmcl knows of a model and open_clip's keys cannot say.
OWN_KEY = "mmcl"
HUB = "hf-hub:"
TIMM_KEYS = ("architecture", "model_args", "num_classes", "pretrained_cfg")


def names_repository(model_config: Mapping[str, Any]) -> bool:
    """Whether a ``model_cfg`` has timm read the image tower's config from a repository."""
    return str(model_config["vision_cfg"].get("timm_model_name") or "").startswith(HUB)


def own_timm_config(folder: str | Path) -> dict[str, Any] | None:
    """The timm config of the image tower that a folder itself holds; None where it holds none."""
    path = Path(folder) / "config.json"
    found = parse_json(path) if path.is_file() else {}
    return {key: found[key] for key in TIMM_KEYS} if set(TIMM_KEYS) <= set(found) else None


def own_text_config(folder: str | Path) -> dict[str, Any] | None:
    """The transformers config of the text tower that a folder itself holds; None where it holds none.

    Looked for as ``config.json``, as the text half of a ``config.json`` with two towers, and where mmcl keeps it.
    """
    found: Any = None
    kept = Path(folder) / "open_clip_text" / "config.json"
    if (path := Path(folder) / "config.json").is_file():
        whole = parse_json(path)
        found = whole.get("text_config") if "text_config" in whole else whole
        found = {key: value for key, value in found.items() if key not in TIMM_KEYS}
    elif (path := Path(folder) / "mmcl.json").is_file():
        tower = parse_json(path).get("text", {}).get("tower", {})
        found = tower.get("config") if tower.get("family") == "transformers" else None
        found = parse_json(kept) if found is None and kept.is_file() else found
    return found if isinstance(found, dict) and "model_type" in found else None


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target)
    except OSError:  # a file system, or a user, without links
        shutil.copy2(source, target)


@contextmanager
def opened_alone(folder: str | Path) -> Iterator[Path]:
    """Within it, a folder that plain open_clip opens and that needs no Hub: the given one where that is so already.

    Where a tower's config lies in the folder, this is a temporary folder of links in which the tower is named by that
    config's own folder: what the Hub answers for a repository that names itself.

    Args:
        folder: one with an ``open_clip_config.json``.
    """
    folder = Path(folder)
    config = parse_json(folder / CONFIG)
    model = config.get("model_cfg", {})
    text, vision = model.get("text_cfg", {}), model.get("vision_cfg", {})
    towers = {
        "text_tower": own_text_config(folder) if text.get("hf_model_name") else None,
        "image_tower": own_timm_config(folder) if vision and names_repository(model) else None,
    }
    if not any(towers.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mmcl_open_clip_") as made:
        copy = Path(made)
        for file in folder.iterdir():
            if file.is_file() and file.name != CONFIG:
                _link(file, copy / file.name)
        for name, content in towers.items():
            if content is not None:
                (copy / name).mkdir()
                (copy / name / "config.json").write_text(json.dumps(content), encoding="utf-8")
        if towers["text_tower"] is not None:
            text["hf_model_name"] = str(copy / "text_tower")
        if towers["image_tower"] is not None:
            vision["timm_model_name"] = f"local-dir:{copy / 'image_tower'}"
        (copy / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        yield copy
