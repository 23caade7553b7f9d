"""Which files of a run folder are damaged: cut short, missing, or not of their kind."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mmcl.config import parse_yaml
from mmcl.doctor.examination.subject import Damage
from mmcl.errors import ConfigError
from mmcl.models.saving import DESCRIPTION
from mmcl.models.saving import WEIGHTS as MODEL_WEIGHTS
from mmcl.training.checkpoint import LAST, PROGRESS, RANDOM, STATES, WEIGHTS, complete_checkpoints
from mmcl.training.runs import CHECKPOINTS, CONFIG, MODEL

MISSING = "nothing"
LONGEST_HEADER = 100_000_000  # bytes; the format's own limit
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm")
RESULTS = ("evaluation.json", "stopped_batch.json")


def damaged_config(folder: Path) -> Damage | None:
    """What is wrong with ``config.yaml`` as a file; None where it is whole.

    Args:
        folder: of the run.
    """
    path = folder / CONFIG
    if not path.is_file():
        return Damage(CONFIG, MISSING, "the recipe that was run")
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        return Damage(CONFIG, f"{_size(path)} that are no YAML ({_first_line(error)})", "the recipe that was run")
    if not isinstance(tree, dict):
        return Damage(CONFIG, f"{_size(path)} that are no mapping of sections", "the recipe that was run")
    # Written last: without it, keys further up are missing too, and would be taken for their defaults.
    if "environment" not in tree:
        return Damage(CONFIG, f"{_size(path)} without the section environment, its last", "the whole recipe")
    return None


def damaged_files(folder: Path) -> Iterator[Damage]:
    """What is wrong with models, checkpoints and results of a run; its config and records are looked at elsewhere.

    Nothing is loaded: of weights the header is read, which says how long the file is to be.

    Args:
        folder: of the run; one without a model or a checkpoint yet is whole.
    """
    if (folder / MODEL).is_dir():
        yield from damaged_model(folder / MODEL)
    elif _is_finished(folder):
        yield Damage(MODEL, MISSING, "the model of a finished run")
    yield from _damaged_checkpoints(folder / CHECKPOINTS)
    for name in RESULTS:
        if (folder / name).exists() and (why := _json_fault(folder / name)):
            yield Damage(name, why, "JSON", is_grave=False)


def damaged_model(folder: Path) -> Iterator[Damage]:
    """What is wrong with the files of a model folder.

    Args:
        folder: that ``save_pretrained`` wrote.
    """
    names = [DESCRIPTION, MODEL_WEIGHTS, "preprocessor_config.json"]
    description = _read_json(folder / DESCRIPTION)
    if description.get("layout") == "vision_text_dual_encoder":
        names.append("config.json")
    text = description.get("text", {})
    if isinstance(text, dict) and text.get("tower", {}).get("family") != "open_clip" and description:
        names.append("tokenizer_config.json")
        if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):
            names.append("tokenizer.json")
    found = {path.name for pattern in ("*.json", "*.safetensors") for path in folder.glob(pattern)}
    for name in [*names, *sorted(found - {*names})]:
        if (damage := _damaged(folder / name)) is not None:
            yield damage


def _damaged_checkpoints(folder: Path) -> Iterator[Damage]:
    link = folder / LAST
    if link.is_symlink() and not link.exists():
        yield Damage(f"{CHECKPOINTS}/{LAST}", f"a link to {link.readlink()}, which is not there", "a checkpoint")
    for checkpoint in sorted(path for path in folder.glob("step_*") if path.is_dir()):
        for name in (PROGRESS, WEIGHTS, STATES, RANDOM):
            if (damage := _damaged(checkpoint / name)) is not None:
                yield damage


def newest_checkpoint(folder: Path) -> Path | None:
    """The folder of the newest checkpoint that says where it stands, whole or not; None: there is none.

    Args:
        folder: of the run.
    """
    complete = complete_checkpoints(folder / CHECKPOINTS)
    return complete[-1] if complete else None


def read_progress(folder: Path) -> dict[str, Any]:
    """Where a run's newest checkpoint stands; empty where there is none, or what it says cannot be read."""
    checkpoint = newest_checkpoint(folder)
    return {} if checkpoint is None else _read_json(checkpoint / PROGRESS)


def _is_finished(folder: Path) -> bool:
    return bool(read_progress(folder).get("finished"))


# -- single files ------------------------------------------------------------------------------------------------


def _damaged(path: Path) -> Damage | None:
    """What is wrong with one file, by the kind that its name says."""
    name = "/".join(path.parts[-3 if path.parent.parent.name == CHECKPOINTS else -2 :])
    if path.suffix == ".safetensors":
        wanted, why = _weights_fault(path)
    elif path.suffix == ".pt":
        wanted, why = "a whole file of torch.save", _archive_fault(path)
    else:
        wanted, why = "JSON with named values", _json_fault(path)
    return Damage(name, why, wanted) if why else None


def _weights_fault(path: Path) -> tuple[str, str]:
    """(wanted, what is wrong) of a safetensors file; the header says how long it is to be."""
    wanted = "weights in safetensors"
    if not path.is_file():
        return wanted, MISSING
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 0 < length <= LONGEST_HEADER:
            return wanted, f"{_size(path)} that are no such file"
        if size < 8 + length:
            return f"at least the {8 + length:,} bytes of its header", _size(path)
        ends = _ends(file.read(length))
    if ends is None:
        return wanted, f"{_size(path)} that are no such file"
    if size != 8 + length + ends:
        return f"{8 + length + ends:,} bytes, as its header says", _size(path)
    return wanted, _header_fault(path)


def _ends(header: bytes) -> int | None:
    """Bytes of all values together; None where it is no header."""
    try:
        entries = json.loads(header)
        return max((entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return None


def _header_fault(path: Path) -> str:
    try:
        with safe_open(str(path), framework="pt"):
            return ""
    except (SafetensorError, OSError) as error:
        return f"{_size(path)} whose header does not fit ({_first_line(error)})"


def _archive_fault(path: Path) -> str:
    if not path.is_file():
        return MISSING
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("data.pkl") for name in archive.namelist()):
                return ""
    except (zipfile.BadZipFile, OSError):
        pass
    return f"{_size(path)} that are no such file, or a part of one"


def _json_fault(path: Path) -> str:
    if not path.is_file():
        return MISSING
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{_size(path)} that are no JSON ({_first_line(error)})"
    return "" if isinstance(value, dict) else f"{_size(path)} that hold no named values"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:150]
