"""What a model's files may not do: hold pickles, bring code, or lead out of their folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from mmcl.errors import ConfigError
from mmcl.models.opening.kinds import MMCL, OPEN_CLIP, PICKLES, SENTENCE_TRANSFORMERS, TRANSFORMERS, Kind, ModelFiles

# Kind -> patterns of its weights in safetensors, and of the pickles others keep them in.
_WEIGHTS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "mmcl": (("model*.safetensors",), ("*",)),
    "transformers": (("model*.safetensors",), ("pytorch_model*", "model*", "tf_model*", "flax_model*")),
    "open_clip": (("open_clip*.safetensors",), ("*",)),
}
_TIMM_READS_FILES = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
_CONVERT = (
    "python -c \"import torch; from safetensors.torch import save_file; w = torch.load('{old}', map_location='cpu', "
    "weights_only=True); save_file({{k: v.clone().contiguous() for k, v in w.get('state_dict', w).items()}}, '{new}', "
    "metadata={{'format': 'pt'}})\""
)


def only_pickles(names: Sequence[str], kind: Kind) -> str | None:
    """The pickle that holds a model's weights where no safetensors do; None where they do, or there are no weights."""
    if kind == "sentence-transformers":
        return _module_of_pickles(names)
    if kind not in _WEIGHTS:
        return None
    safe, others = _WEIGHTS[kind]
    top = [name for name in names if "/" not in name]
    if any(fnmatch(name, pattern) for name in top for pattern in safe):
        return None
    pickles = [name for name in top if name.endswith(PICKLES) and any(fnmatch(name, other) for other in others)]
    return pickles[0] if pickles else None


def _module_of_pickles(names: Sequence[str]) -> str | None:
    """sentence-transformers keeps each module's weights in a folder of its own."""
    for name in names:
        folder, file = PurePosixPath(name).parent, PurePosixPath(name).name
        if fnmatch(file, "pytorch_model*.bin"):
            beside = [PurePosixPath(other).name for other in names if PurePosixPath(other).parent == folder]
            if not any(fnmatch(other, "model*.safetensors") for other in beside):
                return name
    return None


def pickle_refused(source: str, file: str, *, kind: Kind) -> ConfigError:
    """The error of a model whose weights are a pickle."""
    new = str(PurePosixPath(file).with_name("open_clip_model" if kind == "open_clip" else "model")) + ".safetensors"
    return ConfigError(
        f"{source}: its weights are a pickle ({file}), which can run any code when it is read, and mmcl reads "
        f"safetensors alone; look for a revision that has them (on the Hub often refs/pr/1), ask its owner for one, or "
        f"convert the file in a sandbox: {_CONVERT.format(old=file, new=new)}"
    )


def code_refused(source: str, code: str) -> ConfigError:
    """The error of a model that only code of its own can open."""
    return ConfigError(
        f"{source}: it needs code that it brings itself ({code}), and mmcl runs no code of a model's "
        f"(trust_remote_code); use a model whose class is part of the library, or read that code, embed with it in a "
        f"sandbox and give mmcl the result (vectors:FILE.npz)"
    )


def adapter_refused(source: str) -> ConfigError:
    """The error of a folder that holds a peft adapter, for which transformers would open another model."""
    return ConfigError(
        f"{source}: it holds a peft adapter (adapter_config.json), which stands on another model's weights; put the "
        f"two together first (mmcl merge lora)"
    )


def wants_code(error: Exception) -> bool:
    """Whether a library's error says that a model can be opened only by running its code."""
    return "trust_remote_code" in str(error)


def check_model(files: ModelFiles, kind: Kind) -> None:
    """Refuse a model that is a pickle, needs code of its own, or names files outside its folder.

    Args:
        files: of the model; only small ones are read.
        kind: what it is to be opened as.

    Raises:
        ConfigError: what of it is refused, and what to do.
    """
    names = files.names()
    pickle = only_pickles(names, kind)
    if pickle is not None:
        raise pickle_refused(files.name, pickle, kind=kind)
    if kind in ("mmcl", "transformers") and "adapter_config.json" in names:
        raise adapter_refused(files.name)
    for name in names:
        _confined(name, f"{files.name}: a file")
    for name in names:
        if PurePosixPath(name).name == "tokenizer_config.json":
            _check_tokenizer(files, name)
        elif PurePosixPath(name).name == OPEN_CLIP and (kind == "open_clip" or name.startswith("open_clip_")):
            _check_open_clip(files, name)
    if kind == "mmcl":
        _check_description(files)
    if kind in ("mmcl", "transformers") and TRANSFORMERS in names:
        _check_class(files)
    if kind == "sentence-transformers" and SENTENCE_TRANSFORMERS in names:
        _check_modules(files)


def check_links(folder: Path, names: Sequence[str]) -> None:
    """Refuse files that are links to somewhere outside the folder; those of the Hub's cache lead to its own store.

    Raises:
        ConfigError: names the link and where it leads.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":  # the Hub's cache: snapshots/COMMIT/FILE -> blobs/HASH
        root = root.parents[1]
    for name in names:
        target = (folder / name).resolve()
        if not target.is_relative_to(root):
            raise ConfigError(
                f"{folder / name} is a link out of the model's folder (to {target}); mmcl reads nothing outside it: "
                f"put a copy of the file there, if it belongs to the model"
            )


def _confined(path: Any, what: str) -> None:
    parts = PurePosixPath(str(path).replace("\\", "/")).parts
    if str(path).startswith(("/", "~", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", str(path)):
        raise ConfigError(
            f"{what} is {str(path)!r}, which leads out of the model's folder; mmcl reads nothing outside it: put the "
            f"file inside and name it from there, or name a model on the Hub"
        )


def _mapping(tree: Any, key: str) -> dict[str, Any]:
    """The mapping under a key; an empty one where there is something else."""
    value = tree.get(key) if isinstance(tree, dict) else None
    return value if isinstance(value, dict) else {}


@contextmanager
def no_questions() -> Iterator[None]:
    """Within it, transformers refuses models that need code of their own; it would ask the person at the keyboard.

    For calls of libraries that cannot be told ``trust_remote_code=False``.
    """
    from transformers import dynamic_module_utils

    before = dynamic_module_utils.TIME_OUT_REMOTE_CODE
    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
    try:
        yield
    finally:
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = before


def _values(tree: Any, key: str) -> Iterator[Any]:
    """Every value of a key, at any depth."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from _values(value, key)
    elif isinstance(tree, list):
        for value in tree:
            yield from _values(value, key)


def _check_tokenizer(files: ModelFiles, name: str) -> None:
    import transformers

    config = files.read(name)
    if not isinstance(config, dict):
        return
    own = _mapping(config, "auto_map").get("AutoTokenizer")
    if own and not hasattr(transformers, str(config.get("tokenizer_class") or "")):
        code = next((part for part in (own if isinstance(own, list) else [own]) if part), own)
        raise code_refused(files.name, f"auto_map of {name}: {code}")
    for file in config.get("fast_tokenizer_files") or ():
        _confined(file, f"{files.name}: fast_tokenizer_files in {name}")


def _check_class(files: ModelFiles) -> None:
    """A config whose class transformers lacks and the repository brings."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = files.read(TRANSFORMERS)
    if isinstance(config, dict) and config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING_NAMES:
        code = next(iter(config["auto_map"].values())) if isinstance(config["auto_map"], dict) else config["auto_map"]
        raise code_refused(files.name, f"auto_map of {TRANSFORMERS}: {code}")


def _check_open_clip(files: ModelFiles, name: str) -> None:
    config = files.read(name)
    config = config.get("model_cfg", config) if isinstance(config, dict) else {}
    if any(value for value in _values(config, "trust_remote_code")):
        raise code_refused(files.name, f"trust_remote_code in {name}")
    for section, key in (("text_cfg", "hf_model_name"), ("vision_cfg", "timm_model_name")):
        value = _mapping(config, section).get(key)
        if isinstance(value, str):
            local = value.removeprefix("local-dir:")
            # Both libraries look for a folder of that name first; an id has one slash at most.
            outside = local if local == value and value.count("/") <= 1 and not value.startswith(".") else f"/{local}"
            _confined(outside, f"{files.name}: {section}.{key} in {name}")


def _check_description(files: ModelFiles) -> None:
    """``mmcl.json``: names of towers are labels, but timm takes some of them, and options, for files to read."""
    description = files.read(MMCL)
    for side in ("image", "text"):
        tower = _mapping(_mapping(description, side), "tower")
        if tower.get("family") != "timm":
            continue
        if re.search(r"[:/\\]", str(tower.get("name"))):
            _confined(f"/{tower.get('name')}", f"{files.name}: the name of the {side} tower in {MMCL}")
        for key in _TIMM_READS_FILES:
            if key in _mapping(tower, "options"):
                value = tower["options"][key]
                raise ConfigError(
                    f"{files.name}: {MMCL} gives timm the option {key} ({value!r}), which reads weights from "
                    f"elsewhere; take it out: the model's own weights lie beside it"
                )


def _check_modules(files: ModelFiles) -> None:
    for module in files.read(SENTENCE_TRANSFORMERS):
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not str(kind).startswith("sentence_transformers."):
            raise code_refused(files.name, f"module {kind} in {SENTENCE_TRANSFORMERS}")
        _confined(path or "", f"{files.name}: the path of a module in {SENTENCE_TRANSFORMERS}")
