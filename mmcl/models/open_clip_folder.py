"""open_clip's folders whose text tower is transformers': opened without the Hub.

open_clip builds such a tower from the config that ``hf_model_name`` leads to, a Hub id, also where the folder holds
that config itself.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmcl.models.transformers_loading import parse_json

CONFIG = "open_clip_config.json"
# Beside open_clip's keys: what mmcl knows of a model and open_clip's keys cannot say.
OWN_KEY = "mmcl"
TOWER_FOLDER = "text_tower"


def own_text_config(folder: str | Path) -> dict[str, Any] | None:
    """The transformers config of the text tower that a folder itself holds; None where it holds none.

    Looked for as ``config.json``, as the text half of a ``config.json`` with two towers, and where mmcl keeps it.
    """
    found: Any = None
    kept = Path(folder) / "open_clip_text" / "config.json"
    if (path := Path(folder) / "config.json").is_file():
        whole = parse_json(path)
        found = whole.get("text_config") if "text_config" in whole else whole
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

    Where the text tower is transformers' and its config lies in the folder, this is a temporary folder of links whose
    ``hf_model_name`` is that config's own folder: what the Hub answers for a repository that names itself.

    Args:
        folder: one with an ``open_clip_config.json``.
    """
    folder = Path(folder)
    config = parse_json(folder / CONFIG)
    text = config.get("model_cfg", {}).get("text_cfg", {})
    own = own_text_config(folder) if isinstance(text, dict) and text.get("hf_model_name") else None
    if own is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mmcl_open_clip_") as made:
        copy = Path(made)
        for file in folder.iterdir():
            if file.is_file() and file.name != CONFIG:
                _link(file, copy / file.name)
        (copy / TOWER_FOLDER).mkdir()
        (copy / TOWER_FOLDER / "config.json").write_text(json.dumps(own), encoding="utf-8")
        text["hf_model_name"] = str(copy / TOWER_FOLDER)
        (copy / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        yield copy
