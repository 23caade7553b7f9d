"""What is in a file, whatever its name says: pickles, secrets, vectors, and files that are not what they claim."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

from mmcl.repos.secret_finding import find_secrets, find_secrets_in_bytes

Fault = tuple[str, str]  # why a file may not go, and what to do

_PICKLE = ("a pickle by its first bytes, which runs code when it is read", "write its content as safetensors or JSON")
_ZIP, _PROTOCOL = b"PK\x03\x04", re.compile(rb"\x80[\x02-\x05]")
# Protocol 0 and 1 are text; these are how programs begin that import something or build a dictionary.
_TEXT_PICKLE = re.compile(rb"(?:c[\w.]+\n\w+\n|\(dp?\d+\n|\(lp?\d+\n|\(i[\w.]+\n)")
_OBJECTS = re.compile(rb"'\|?O\d*'")  # the type of an array of Python objects
_IMAGE_STARTS = {".png": b"\x89PNG\r\n", ".webp": b"RIFF", ".jpg": b"\xff\xd8", ".jpeg": b"\xff\xd8"}
_VECTOR_KEYS = frozenset({"image", "text", "image_group", "text_group", "image_id", "text_id", "label"})
_PIECE = 2**24
_OVERLAP = 4096


def fault_of_content(source: Path, kind: str, *, vectors_allowed: bool) -> Fault | None:
    """Why a file's content may not go to the Hub, and what to do; None where nothing speaks against it.

    Args:
        source: the file.
        kind: what ``kind_of`` makes of its name.
        vectors_allowed: let embeddings go.

    Raises:
        OSError: it cannot be read.
    """
    with source.open("rb") as file:
        start = file.read(512)
    if is_pickle(source, start):
        return _PICKLE
    if kind == "text" or source.suffix == ".svg":
        return _fault_of_text(source)
    if kind == "weights":
        return _fault_of_weights(source, vectors_allowed=vectors_allowed)
    if source.suffix in _IMAGE_STARTS and kind == "asset" and not start.startswith(_IMAGE_STARTS[source.suffix]):
        return f"no {source.suffix[1:]} picture, whatever its name says", "write it anew or take it out"
    if source.suffix == ".npz" and vectors_allowed and _holds_objects(source):
        return _PICKLE
    return _fault_of_bytes(source)


def is_pickle(source: Path, start: bytes) -> bool:
    """Whether a file is a pickle, or an archive of torch's that holds one.

    Args:
        source: the file.
        start: its first bytes, 512 or so.
    """
    if _PROTOCOL.match(start) or _TEXT_PICKLE.match(start):
        return True
    if not start.startswith(_ZIP):
        return start.startswith(b"\x93NUMPY") and bool(_OBJECTS.search(start))
    try:
        with zipfile.ZipFile(source) as archive:
            return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _holds_objects(source: Path) -> bool:
    """Whether an .npz holds arrays of Python objects, which are pickles inside."""
    try:
        with zipfile.ZipFile(source) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    if _OBJECTS.search(member.read(512)):
                        return True
    except zipfile.BadZipFile:
        return True
    return False


def _fault_of_text(source: Path) -> Fault | None:
    try:
        text = source.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return "no text in UTF-8, whatever its name says", "write it anew or take it out"
    is_json = source.suffix == ".json"
    if is_json:
        try:
            json.loads(text)
        except ValueError:
            return "no JSON, whatever its name says", "write it anew or take it out"
    found = find_secrets(text, quoted_only=is_json)
    if found:
        return _secret(f"{found[0].kind} in line {found[0].line}", more=len(found) - 1)
    return None


def _fault_of_weights(source: Path, *, vectors_allowed: bool) -> Fault | None:
    size = source.stat().st_size
    with source.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 2 <= length <= min(size - 8, 100_000_000) else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        return "no safetensors, whatever its name says", "write the weights anew with safetensors"
    # Names and notes are text that everybody reads; the numbers behind them are not.
    kinds = find_secrets_in_bytes(json.dumps(header.get("__metadata__", {})).encode())
    if kinds:
        return _secret(f"{kinds[0]} in its metadata", more=len(kinds) - 1)
    names = header.keys() - {"__metadata__"}
    if names and names <= _VECTOR_KEYS and not vectors_allowed:
        return "embeddings, not a part of a model", "take it out, or let it go with --allow"
    return None


def _fault_of_bytes(source: Path) -> Fault | None:
    """Secrets that are recognised by their form, in a file of any kind, read in pieces."""
    with source.open("rb") as file:
        tail = b""
        while piece := file.read(_PIECE):
            kinds = find_secrets_in_bytes(tail + piece)
            if kinds:
                return _secret(f"{kinds[0]} inside", more=len(kinds) - 1)
            tail = piece[-_OVERLAP:]
    return None


def _secret(what: str, *, more: int) -> Fault:
    others = f" and {more} more" if more else ""
    return f"{what}{others}", "take the secret out, and make it invalid where it was ever shared"
