"""From the name of a model to its files: which folder they lie in, and what they are to be opened as."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.models.opening.kinds import (
    MMCL,
    NEEDED,
    ONNX,
    OPEN_CLIP,
    SENTENCE_TRANSFORMERS,
    FolderFiles,
    Kind,
    ModelFiles,
    find_kinds,
    no_model,
)
from mmcl.models.opening.references import HUB_PREFIX, parse_tower, resolve_path
from mmcl.models.opening.security import check_links, check_model, only_pickles
from mmcl.models.towers.transformers_loading import parse_json

log = get_logger(__name__)

_ONNX_PRECISIONS = ("fp32", "int8")
# Prefix -> kind, and the file that must be there.
_PREFIXES: dict[str, tuple[Kind, str]] = {
    "sentence-transformers:": ("sentence-transformers", SENTENCE_TRANSFORMERS),
    "onnx:": ("onnx", ONNX),
    "open_clip:": ("open_clip", OPEN_CLIP),
}


@dataclass(frozen=True)
class LocatedModel:
    """Where a model is, and what it is.

    Attributes:
        reference: what it was asked for as.
        kind: what it is opened as.
        folder: where its files lie; None: an architecture that open_clip knows by name.
        revision: the commit that was fetched from the Hub; None for a local folder.
        repo_id: of the Hub.
        architecture, checkpoint: open_clip's name, and its tag or file of weights.
        precision: onnx: which of its graphs.
    """

    reference: str
    kind: Kind
    folder: Path | None
    revision: str | None = None
    repo_id: str | None = None
    architecture: str = ""
    checkpoint: str | None = None
    precision: str = "fp32"


class HubFiles:
    """The files of a repository of the Hub; each is fetched when it is read.

    Args:
        repo_id: ``owner/name``.
        names: paths from the root of the repository.
        revision: a branch, tag, commit or ``refs/pr/N``; None: main.
        token: instead of the one that is logged in.
    """

    def __init__(self, repo_id: str, names: Sequence[str], *, revision: str | None, token: str | None) -> None:
        self.name, self._names, self._revision, self._token = repo_id, sorted(names), revision, token

    def names(self) -> Sequence[str]:
        """Paths from the root of the repository, sorted."""
        return self._names

    def read(self, name: str) -> dict[str, Any] | list[Any]:
        """One of its JSON files."""
        from mmcl.repos.downloading import fetch_file

        path = fetch_file(self.name, name, revision=self._revision, token=self._token)
        if path is None:
            raise ConfigError(f"{self.name}: {name} was listed, but cannot be fetched; try again")
        return parse_json(path, kinds=(dict, list))


def locate(reference: str | Path, *, revision: str | None = None, token: str | None = None) -> LocatedModel:
    """Find the files of a model, and what they are; from the Hub only what opening it needs is fetched.

    What a folder or repository is, its files tell, the first of these: ``mmcl.json`` (also in FOLDER/model, of a run);
    ``mmcl_onnx.json``; ``config.json`` of a model with two towers; ``open_clip_config.json``; ``modules.json``
    (sentence-transformers); ``onnx/mmcl_onnx.json``. Where that one has no weights but a pickle, the next that has.

    Args:
        reference: a folder or Hub id (``owner/name``, ``owner/name@REVISION``); ``open_clip:`` with ARCH,
            ARCH/PRETRAINED, a folder or ``hf-hub:owner/name``; ``sentence-transformers:`` with a folder or id;
            ``onnx:FOLDER`` or ``onnx:FOLDER/int8``.
        revision: of a Hub id: a branch, tag, commit or ``refs/pr/N``.
        token: for the Hub, instead of the one that is logged in.

    Raises:
        ConfigError: there is no such model, it cannot be reached, is none that mmcl reads, or is refused: a pickle,
            code of its own, paths that lead out of it.
    """
    reference = str(reference)
    if reference == "tiny" or reference.startswith("timm:"):
        raise ConfigError(f"{reference!r} is a tower, not a model of images and texts; name it in model.image.name")
    if reference.startswith("vectors:"):
        raise ConfigError(f"{reference!r} holds embeddings and no model: it has no towers to run, train or merge")
    prefix = next((prefix for prefix in _PREFIXES if reference.startswith(prefix)), "")
    rest = os.path.expanduser(resolve_path(reference.removeprefix(prefix)))
    forced, mark = _PREFIXES.get(prefix, (None, ""))
    if prefix == "onnx:":
        folder, _, last = rest.rpartition("/")
        if last in _ONNX_PRECISIONS and not os.path.isdir(rest):
            return _locate(folder, reference, revision, token, kind=forced, mark=mark, precision=last)
    if prefix == "open_clip:" and not rest.startswith(HUB_PREFIX) and not os.path.isdir(rest):
        named = parse_tower(reference)
        return LocatedModel(reference, "open_clip", None, architecture=named.name, checkpoint=named.checkpoint)
    return _locate(rest.removeprefix(HUB_PREFIX), reference, revision, token, kind=forced, mark=mark)


def _locate(
    name: str,
    reference: str,
    revision: str | None,
    token: str | None,
    *,
    kind: Kind | None,
    mark: str,
    precision: str = "fp32",
) -> LocatedModel:
    if os.path.isdir(name):
        if revision is not None:
            raise ConfigError(f"{reference!r} is a folder, which has no revisions; leave revision={revision!r} out")
        return replace(_in_folder(Path(name), reference, kind=kind, mark=mark), precision=precision)
    if os.path.isfile(name):
        raise ConfigError(f"{reference} is a file; a model is a folder, a Hub id, or vectors:FILE")
    repo_id, _, said = name.partition("@")
    if kind == "sentence-transformers" and repo_id and "/" not in repo_id:
        repo_id = f"sentence-transformers/{repo_id}"  # whose names the library knows without their owner
    if not repo_id or repo_id.startswith((".", "/", "~", "runs/")) or repo_id.count("/") > 1:
        raise ConfigError(f"there is no model folder {reference!r} (looked in {Path(name).absolute()})")
    if said and revision is not None and said != revision:
        raise ConfigError(f"{reference!r} names the revision {said!r}, and revision={revision!r} another; give one")
    wanted = LocatedModel(reference, kind or "mmcl", None, said or revision, repo_id, precision=precision)
    return _on_hub(wanted, token, kind=kind, mark=mark)


def _in_folder(folder: Path, reference: str, *, kind: Kind | None, mark: str) -> LocatedModel:
    if kind is None and not (folder / MMCL).is_file() and (folder / "model" / MMCL).is_file():
        folder = folder / "model"
    files = FolderFiles(folder)
    kind, root = _choose(files, kind, mark)
    check_model(files, kind)
    modules = _modules(files, kind)
    check_links(folder, [name for name in files.names() if _is_needed(name, kind, modules=modules, root=root)])
    return LocatedModel(reference, kind, folder / root)


def _on_hub(wanted: LocatedModel, token: str | None, *, kind: Kind | None, mark: str) -> LocatedModel:
    from mmcl.repos.downloading import fetch_snapshot
    from mmcl.repos.listing import ask_once

    repo_id, revision = str(wanted.repo_id), wanted.revision
    listed = ask_once(repo_id, revision=revision, token=token)
    if isinstance(listed, Path):  # the Hub must not or cannot be asked: what was fetched before
        found = _in_folder(listed, wanted.reference, kind=kind, mark=mark)
        return replace(wanted, kind=found.kind, folder=found.folder, revision=listed.name)
    files = HubFiles(repo_id, listed, revision=revision, token=token)
    kind, root = _choose(files, kind, mark)
    check_model(files, kind)
    modules, others = _modules(files, kind), _other_graphs(files, kind, root, wanted.precision)
    needed = [name for name in listed if _is_needed(name, kind, modules=modules, root=root) and name not in others]
    snapshot = fetch_snapshot(repo_id, revision=revision, allow=needed, token=token)
    check_links(snapshot, [name for name in needed if (snapshot / name).exists()])
    return replace(wanted, kind=kind, folder=snapshot / root, revision=snapshot.name)


def _choose(files: ModelFiles, kind: Kind | None, mark: str) -> tuple[Kind, str]:
    """What files are opened as, and the folder among them where that lies."""
    names = set(files.names())
    if kind is None:
        kinds = find_kinds(files)
        if not kinds:
            raise no_model(files)
        safe = [kind for kind in kinds if only_pickles(files.names(), kind) is None]
        kind = (safe or kinds)[0]
        if safe and kind != kinds[0]:
            log.info("%s: its weights as a %s model are a pickle; opened as %s", files.name, kinds[0], kind)
    elif mark not in names and not (kind == "onnx" and f"onnx/{ONNX}" in names):
        if kind == "sentence-transformers" and "config.json" in names:
            return kind, ""  # the library makes a mean of any text model's tokens
        raise ConfigError(
            f"{kind}:{files.name}: there is no {mark}; there is {', '.join(sorted(names)[:6]) or 'no file'}"
        )
    return kind, "onnx" if kind == "onnx" and ONNX not in names else ""


def _modules(files: ModelFiles, kind: Kind) -> tuple[str, ...]:
    """The folders of a sentence-transformers model's modules."""
    if kind != "sentence-transformers" or SENTENCE_TRANSFORMERS not in files.names():
        return ()
    return tuple(f"{module['path']}/" for module in files.read(SENTENCE_TRANSFORMERS) if module.get("path"))


def _other_graphs(files: ModelFiles, kind: Kind, root: str, precision: str) -> set[str]:
    """ONNX graphs of other precisions than the one that is wanted."""
    if kind != "onnx":
        return set()
    description = files.read(f"{root}/{ONNX}".lstrip("/"))
    graphs = description.get("graphs") if isinstance(description, dict) else None
    named: dict[str, set[str]] = {}
    for each, sides in (graphs if isinstance(graphs, dict) else {}).items():
        found = sides.values() if isinstance(sides, dict) else ()
        named[each] = {f"{root}/{name}".lstrip("/") for names in found for name in names}
    return set().union(*named.values()) - named.get(precision, set())


def _is_needed(name: str, kind: Kind, *, modules: tuple[str, ...] = (), root: str = "") -> bool:
    path = PurePosixPath(name)
    if kind == "onnx":
        inside = path.parent.as_posix() == (root or ".")
        return inside and any(path.match(pattern) for pattern in NEEDED[kind])
    if modules and name.startswith(modules):
        path = PurePosixPath(path.name)  # a module's folder holds the same kinds of files
    patterns = [pattern for pattern in NEEDED[kind] if ("/" in pattern) == ("/" in str(path))]
    return any(path.match(pattern) for pattern in patterns)
