"""What was pushed, as a file beside it: each path with the digests that the Hub may know its content by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.repos.planning import MANIFEST, PlannedFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

log = get_logger(__name__)


@dataclass(frozen=True)
class Digest:
    """A file's content by the two names that the Hub may know it under."""

    size: int
    sha256: str
    git: str

    def is_of(self, remote: RepoFile) -> bool:
        """Whether a file on the Hub has this content."""
        if remote.size != self.size:
            return False
        return remote.lfs.sha256 == self.sha256 if remote.lfs is not None else remote.blob_id == self.git


def digest_file(file: PlannedFile) -> Digest:
    """A file's size and digests, read once.

    Raises:
        ConfigError: it cannot be read, or is no longer as large as planned.
    """
    by_sha, by_git = hashlib.sha256(), hashlib.sha1(f"blob {file.size}\0".encode())
    size = 0
    try:
        with file.source.open("rb") as opened:
            while piece := opened.read(2**20):
                by_sha.update(piece)
                by_git.update(piece)
                size += len(piece)
    except OSError as error:
        raise ConfigError(f"{file.source} cannot be read ({error.strerror or error}); nothing was sent") from error
    if size != file.size:
        raise ConfigError(f"{file.source} changed while it was being pushed; try again when nothing writes to it")
    return Digest(size, by_sha.hexdigest(), by_git.hexdigest())


def digest_bytes(content: bytes) -> Digest:
    """The same of bytes."""
    git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return Digest(len(content), hashlib.sha256(content).hexdigest(), git)


def write_manifest(digests: Mapping[str, Digest]) -> bytes:
    """The text of ``mmcl_push.json`` for these files."""
    files = {path: asdict(digest) for path, digest in digests.items()}
    about = "What mmcl pushed last. A later push takes out of this list what it has no more and nobody changed."
    return (json.dumps({"format": 1, "about": about, "files": files}, indent=1) + "\n").encode()


def read_manifest(path: str) -> dict[str, Digest]:
    """What an earlier push noted; nothing where the file is not as mmcl writes it, so that nothing is deleted."""
    try:
        with open(path, encoding="utf-8") as file:
            files = json.load(file)["files"]
        return {
            name: Digest(int(entry["size"]), str(entry["sha256"]), str(entry["git"])) for name, entry in files.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        log.warning("%s on the Hub is not as mmcl writes it; no file of an earlier push is taken out", MANIFEST)
        return {}
