"""`plan_upload`: which files of a folder may go to the Hub, and why the others may not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mmcl.errors import ConfigError
from mmcl.repos.contents import fault_of_content
from mmcl.repos.file_kinds import is_junk, kind_of
from mmcl.repos.secret_finding import SECRET_NAMES

MANIFEST = "mmcl_push.json"

_FIXES = {
    "pickle": ("a pickle, which runs code when it is read", "write the weights as safetensors and take it out"),
    "data": ("data, not a part of a model", "take it out, or let it go with --allow"),
    "image": ("a picture outside assets/", "move it to assets/ where the card shows it, else take it out"),
    "unknown": ("no kind of file that models are made of", "take it out, or let it go with --allow"),
}


@dataclass(frozen=True)
class PlannedFile:
    """A file that may go: its path in the repository, where it lies, and its size in bytes."""

    path: str
    source: Path
    size: int


@dataclass(frozen=True)
class RefusedFile:
    """A file that may not go: its path, why, and what to do. The reason never holds a secret."""

    path: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}; {self.fix}"


@dataclass(frozen=True)
class UploadPlan:
    """What would go to the Hub.

    Attributes:
        folder: the folder.
        files: what may go, by path.
        refused: what may not; nothing is uploaded while there is any.
        left_out: what is passed over: left by systems and tools (``.DS_Store``, ``.git`` ...), or by an earlier push.
    """

    folder: Path
    files: tuple[PlannedFile, ...]
    refused: tuple[RefusedFile, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files that may go."""
        return sum(file.size for file in self.files)

    def check(self) -> None:
        """Refuse a plan that cannot be carried out.

        Raises:
            ConfigError: a file is refused, or there is no file.
        """
        if self.refused:
            listed = "\n".join(f"  {file}" for file in self.refused)
            raise ConfigError(f"{self.folder}: {_count(len(self.refused))} may not go to the Hub:\n{listed}")
        if not self.files:
            raise ConfigError(f"{self.folder} holds no file that could go to the Hub; name a folder with a model")


def _count(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"


def plan_upload(folder: str | Path, *, allow: Sequence[str] = ()) -> UploadPlan:
    """Look through a folder, and into its files, for what may go to the Hub. Needs no network.

    Only kinds of files that models are made of go: safetensors, json, md, yaml, txt, tokenizer models, onnx, licences,
    and pictures below ``assets/``. Pickles are known by their first bytes whatever their names; secrets are looked for
    in every text, and by their form in every other file.

    Args:
        folder: the folder; an empty one gives an empty plan.
        allow: patterns of paths that may go though they are data or of an unknown kind, such as ``"vectors.npz"``;
            never pickles, secrets, hidden files or links out of the folder.

    Raises:
        ConfigError: it is no folder, or a file cannot be read.

    Example:
        >>> plan = plan_upload("runs/emoji/model")                 # doctest: +SKIP
        >>> [file.path for file in plan.files]                     # doctest: +SKIP
        ['mmcl.json', 'model.safetensors', ...]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name the folder whose files are to go to the Hub")
    files, refused, left_out = [], [], []
    for source in _walk(folder):
        path = source.relative_to(folder).as_posix()
        if is_junk(path) or path == MANIFEST:  # which every push makes anew
            left_out.append(path)
            continue
        fault = _fault(source, path, folder, allow)
        if fault is None:
            files.append(PlannedFile(path, source, source.stat().st_size))
        else:
            refused.append(RefusedFile(path, *fault))
    return UploadPlan(folder, tuple(files), tuple(refused), tuple(left_out))


def _walk(folder: Path) -> list[Path]:
    """Every file below a folder, links to folders as they are: what they lead to may lie anywhere."""
    found = []
    for root, folders, names in os.walk(folder):
        here = Path(root)
        found += [here / name for name in names]
        found += [here / name for name in folders if (here / name).is_symlink()]
        folders[:] = [name for name in folders if not is_junk(name)]
    return sorted(found)


def _fault(source: Path, path: str, folder: Path, allow: Sequence[str]) -> tuple[str, str] | None:
    """(reason, fix) where a file may not go."""
    name = path.rpartition("/")[2]
    if source.is_symlink():
        target = source.resolve()
        if not target.is_relative_to(folder.resolve()):
            return "a link that leads out of the folder", "put the file itself there, or take the link out"
        if not target.is_file():
            return "a link to no file", "put the file itself there, or take the link out"
    if not source.is_file():
        return "no regular file", "take it out"
    if SECRET_NAMES.match(name):
        return "a file that holds secrets by its name", "take it out"
    if any(part.startswith(".") for part in path.split("/")):
        return "a hidden file", "take it out, or name it without the dot"
    kind = kind_of(path)
    let_through = any(fnmatch(path, pattern) for pattern in allow)
    try:
        content = fault_of_content(source, kind, vectors_allowed=let_through)
    except OSError as error:
        raise ConfigError(f"{source} cannot be read ({error.strerror or error}); make it readable") from error
    if content is not None:
        return content
    if kind in _FIXES and (kind == "pickle" or not let_through):
        return _FIXES[kind]
    return None
