"""What kind of model a folder or a repository of the Hub holds, told by its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from mmcl.errors import ConfigError
from mmcl.models.towers.transformers_loading import parse_json
from mmcl.repos.file_kinds import PICKLE_SUFFIXES

Kind = Literal["mmcl", "onnx", "transformers", "open_clip", "sentence-transformers"]

MMCL, ONNX, TRANSFORMERS = "mmcl.json", "mmcl_onnx.json", "config.json"
OPEN_CLIP, SENTENCE_TRANSFORMERS = "open_clip_config.json", "modules.json"
# The files that tell what a folder holds, the first one found is meant.
MARKS = (MMCL, ONNX, TRANSFORMERS, OPEN_CLIP, SENTENCE_TRANSFORMERS, f"onnx/{ONNX}")

MOST_FILES = 10_000

# What weights end in that mmcl does not read: pickles, and what may hold one.
PICKLES = (*PICKLE_SUFFIXES, ".h5", ".msgpack")
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
# Kind -> patterns of the files that opening it reads.
NEEDED: dict[Kind, tuple[str, ...]] = {
    "mmcl": (MMCL, TRANSFORMERS, "model*.safetensors*", "preprocessor_config.json", *_TOKENIZER, "open_clip_*/*"),
    "onnx": ("*.json", "*.onnx", "*.onnx.data"),
    "transformers": (
        *(TRANSFORMERS, "model*.safetensors*", "preprocessor_config.json", "processor_config.json", *_TOKENIZER),
        "sentence_bert_config.json",
    ),
    "open_clip": (OPEN_CLIP, "open_clip*.safetensors", "*.safetensors", *_TOKENIZER, TRANSFORMERS),
    "sentence-transformers": ("*.json", "*.txt", "*.model", "model*.safetensors*"),
}


class ModelFiles(Protocol):
    """The files of a model, wherever they are."""

    name: str

    def names(self) -> Sequence[str]:
        """Paths from the model's root, with ``/``."""

    def read(self, name: str) -> dict[str, Any] | list[Any]:
        """One of its JSON files."""


class FolderFiles:
    """The files of a local folder, to two levels below it; of a folder that is no model's, the first ten thousand.

    Args:
        folder: it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.name = folder, str(folder)

    def names(self) -> list[str]:
        """Paths from the folder, sorted."""
        found = []
        for root, folders, files in os.walk(self.folder):
            below = Path(root).relative_to(self.folder)
            found += [(below / file).as_posix() for file in files]
            if len(found) > MOST_FILES:
                break
            folders[:] = [name for name in folders if len(below.parts) < 2 and not name.startswith(".")]
        return sorted(found)

    def read(self, name: str) -> dict[str, Any] | list[Any]:
        """One of its JSON files."""
        return parse_json(self.folder / name, kinds=(dict, list))


def find_kinds(files: ModelFiles) -> list[Kind]:
    """What the files can be opened as, what comes first is meant; empty where mmcl opens none of it.

    A model of mmcl's own stands before the formats it was exported to, which may lie in the same repository.

    Raises:
        ConfigError: a file that says so is no JSON.
    """
    names = set(files.names())
    told: list[tuple[Kind, Callable[[], bool]]] = [
        ("mmcl", lambda: MMCL in names),
        ("onnx", lambda: ONNX in names),
        ("transformers", lambda: TRANSFORMERS in names and is_dual_config(files.read(TRANSFORMERS))),
        ("open_clip", lambda: OPEN_CLIP in names),
        ("sentence-transformers", lambda: SENTENCE_TRANSFORMERS in names),
        ("onnx", lambda: f"onnx/{ONNX}" in names),
    ]
    return list(dict.fromkeys(kind for kind, holds in told if holds()))


def is_dual_config(config: Any) -> bool:
    """Whether a ``config.json`` describes an image and a text tower of one space; models that write text do not."""
    if not isinstance(config, dict):
        return False
    writes = any("ForConditionalGeneration" in str(name) or "ForCausalLM" in str(name)
                 for name in config.get("architectures") or ())  # fmt: skip
    return not writes and all(isinstance(config.get(key), dict) for key in ("vision_config", "text_config"))


def no_model(files: ModelFiles) -> ConfigError:
    """The error of files that are no model with an image and a text tower: what was looked for, and what is there."""
    names = files.names()
    what = _what_it_is(files, set(names))
    top = [name for name in names if "/" not in name and not name.startswith(".")]
    shown = ", ".join(top[:8]) + (f" and {len(top) - 8} more" if len(top) > 8 else "")
    folders = sorted({PurePosixPath(name).parts[0] for name in names if "/" in name})
    inside = f"; folders {', '.join(folders[:4])}" if folders else ""
    return ConfigError(
        f"{files.name}: neither an mmcl model ({MMCL}) nor a transformers one with two towers ({TRANSFORMERS}), an "
        f"open_clip ({OPEN_CLIP}), a sentence-transformers ({SENTENCE_TRANSFORMERS}) or an ONNX one ({ONNX}); "
        f"there is {shown or 'no file'}{inside}{what}"
    )


def _what_it_is(files: ModelFiles, names: Collection[str]) -> str:
    """What else the files are, with what can be done with them, behind a semicolon; empty where that is not known."""
    if "adapter_config.json" in names:
        base = files.read("adapter_config.json")
        base = base.get("base_model_name_or_path") if isinstance(base, dict) else None
        return f"; it is a peft adapter of {base!r}: put the two together first (mmcl merge lora)"
    if "model_index.json" in names:
        return "; it is a diffusers pipeline, which makes images and embeds none"
    if any(name.endswith(".gguf") for name in names):
        return "; it is a GGUF model, whose quantised weights mmcl does not read: name the model it was made of"
    if TRANSFORMERS in names:
        config = files.read(TRANSFORMERS)
        kind = config.get("model_type") if isinstance(config, dict) else None
        if isinstance(config, dict) and "vision_config" in config:
            return f"; it is a {kind} model, which writes text about images and has no embeddings of both"
        if kind:
            side = "image" if "preprocessor_config.json" in names else "text"
            return (
                f"; it is a {kind} model: it has not both an image and a text tower. As a tower of a new model, name "
                f"it in a recipe: model.{side}.name={files.name}"
            )
        if isinstance(config, dict) and "architecture" in config:
            return f"; it is a timm model: model.image.name=timm:{config['architecture']}"
    return "; it holds a run that has not saved a model yet" if "config.yaml" in names else ""
