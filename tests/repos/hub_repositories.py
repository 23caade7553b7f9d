"""What a Hub keeps, in memory: repositories with commits on branches, and a store of large files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

import yaml

# What the Hub takes as a large file whatever its size; others are large above a megabyte.
LARGE_SUFFIXES = (".safetensors", ".onnx", ".model", ".bin", ".pt", ".png", ".webp", ".npz")
LARGE_BYTES = 2**20
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.onnx filter=lfs diff=lfs merge=lfs -text\n"


class Refusal(Exception):  # noqa: N818
    """An answer that is no success: status, message and the code that clients tell errors apart by."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


def git_oid(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_large(path: str, size: int) -> bool:
    return size > 0 and (path.endswith(LARGE_SUFFIXES) or size > LARGE_BYTES)


@dataclass(frozen=True)
class Commit:
    """One state of a repository: every file, and which of them lie in the store of large files."""

    sha: str
    message: str
    files: dict[str, bytes]
    large: frozenset[str]

    def about(self, path: str) -> dict[str, Any]:
        """A file as the listing of a tree describes it."""
        content = self.files[path]
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
        if path in self.large:
            entry["oid"] = git_oid(sha256(content).encode())  # of the pointer, not of the content
            entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
        return entry

    def remote_oid(self, path: str) -> str | None:
        """What a client compares its own file with, to leave out what has not changed."""
        if path not in self.files:
            return None
        return sha256(self.files[path]) if path in self.large else git_oid(self.files[path])


@dataclass
class Repository:
    """A model repository: branches (and ``refs/pr/N``) that each hold their commits, oldest first."""

    name: str
    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=dict)
    serial: int = 0

    def __post_init__(self) -> None:
        self.branches["main"] = [self._commit({".gitattributes": ATTRIBUTES}, frozenset(), "initial commit")]

    def _commit(self, files: dict[str, bytes], large: frozenset[str], message: str) -> Commit:
        self.serial += 1
        sha = hashlib.sha1(f"{self.name} {self.serial}".encode()).hexdigest()
        return Commit(sha, message, files, large)

    def at(self, revision: str) -> Commit:
        """The commit of a branch, pull request or full sha."""
        if revision in self.branches:
            return self.branches[revision][-1]
        for commits in self.branches.values():
            for commit in commits:
                if commit.sha == revision:
                    return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def new_branch(self, name: str, start: str) -> None:
        if name in self.branches:
            raise Refusal(409, "Reference already exists")
        self.branches[name] = [self.at(start)]

    def add(self, branch: str, lines: list[dict[str, Any]], store: dict[str, bytes], *, pull_request: bool) -> str:
        """Commit the parsed lines of a commit request; returns the branch that holds the commit."""
        parent = self.at(branch)
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit", parent.sha) != parent.sha:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files, large = dict(parent.files), set(parent.large)
        for line in lines:
            _apply(line["key"], line["value"], files, large, store)
        commit = self._commit(files, frozenset(large & files.keys()), header["summary"])
        if pull_request:
            number = 1 + sum(name.startswith("refs/pr/") for name in self.branches)
            branch = f"refs/pr/{number}"
            self.branches[branch] = [parent]
        self.branches[branch].append(commit)
        return branch


def _apply(key: str, value: dict[str, Any], files: dict[str, bytes], large: set[str], store: dict[str, bytes]) -> None:
    if key == "file":
        files[value["path"]] = base64.b64decode(value["content"])
        large.discard(value["path"])
    elif key == "lfsFile":
        if value["oid"] not in store:
            raise Refusal(400, f"the large file {value['path']} was not uploaded")
        files[value["path"]] = store[value["oid"]]
        large.add(value["path"])
    elif key == "deletedFile":
        if value["path"] not in files:
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        del files[value["path"]]
    elif key == "deletedFolder":
        for path in [path for path in files if path.startswith(value["path"])]:
            del files[path]


def front_matter(card: str) -> dict[str, Any]:
    """The front matter of a README.md; empty where there is none."""
    if not card.startswith("---\n"):
        return {}
    found = yaml.safe_load(card.split("---\n")[1])
    return found if isinstance(found, dict) else {}


def card_faults(card: str) -> list[str]:
    """What the Hub would refuse a card for."""
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    faults = []
    for key in ("tags", "datasets", "language"):
        value = data.get(key, [])
        if not isinstance(value, (str, list)) or not all(isinstance(item, str) for item in value):
            faults.append(f'"{key}" must be an array of strings')
    if not isinstance(data.get("license", ""), (str, list)):
        faults.append('"license" must be a string')
    for number, entry in enumerate(data.get("model-index", [])):
        results = entry.get("results") if isinstance(entry, dict) else None
        if not isinstance(results, list) or not entry.get("name"):
            faults.append(f'"model-index[{number}]" needs a name and results')
            continue
        for place, result in enumerate(results):
            where = f"model-index[{number}].results[{place}]"
            if not {"task", "dataset", "metrics"} <= result.keys() or not {"type", "name"} <= result["dataset"].keys():
                faults.append(f'"{where}" needs task, dataset (type, name) and metrics')
            elif not all({"type", "value"} <= metric.keys() for metric in result["metrics"]):
                faults.append(f'"{where}.metrics" each need type and value')
    return faults
