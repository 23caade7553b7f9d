"""From the Hub: one file, a whole model, or the list of what is there. Pickles are never fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl.errors import ConfigError
from mmcl.repos.file_kinds import NEVER_FETCHED, is_pickle_name
from mmcl.repos.hub_errors import chain, one_sentence, quiet_client, with_retries


def fetch_file(
    repo_id: str,
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path | None:
    """One file of a model repository, fetched once and kept in the Hub's cache.

    Args:
        repo_id: ``owner/name``.
        name: the file's path in the repository, with ``/``.
        revision: branch, tag or commit; None for ``main``.
        token: to log in with; None for the one that ``hf auth login`` or ``HF_TOKEN`` left, False for none.
        cache_dir: another cache.
        force_download: fetch it again.
        local_files_only: take only what was fetched before.

    Returns:
        Where it lies; None where the repository, or offline what was fetched of it, has no such file.

    Raises:
        ConfigError: the name is a pickle's or leaves the repository, there is no such repository or revision, or it
            cannot be reached.
    """
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

    check_name(repo_id, name)
    options = {"revision": revision, "token": token, "cache_dir": cache_dir}
    options |= {"force_download": force_download, "local_files_only": local_files_only}

    def fetch() -> Path | None:
        try:
            return Path(huggingface_hub.hf_hub_download(repo_id, name, **options))
        except LocalEntryNotFoundError as error:
            offline = local_files_only or any(isinstance(link, OfflineModeIsEnabled) for link in chain(error))
            if offline and _cached_files(repo_id, revision, cache_dir):
                return None
            raise
        except EntryNotFoundError:
            return None

    return with_retries(fetch, repo_id, "read")


def fetch_snapshot(
    repo_id: str,
    *,
    revision: str | None = None,
    allow: Sequence[str] | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The files of a model repository as a folder in the Hub's cache.

    Pickles, Python code and other frameworks' weights are left out, whatever ``allow`` says, so a repository that holds
    its weights as a pickle alone comes without weights.

    Args:
        repo_id: ``owner/name``.
        revision: branch, tag or commit; None for ``main``.
        allow: patterns of the files that are wanted, such as ``["*.json", "onnx/*"]``; None for all.
        token, cache_dir, force_download, local_files_only: as for ``fetch_file``.

    Returns:
        The folder; where the Hub cannot be reached, the one fetched before.

    Raises:
        ConfigError: there is no such repository or revision, it cannot be reached and was not fetched before, or a
            file's name leaves the repository.
    """
    import huggingface_hub

    options: dict[str, Any] = {"revision": revision, "token": token, "cache_dir": cache_dir}
    options |= {"force_download": force_download, "local_files_only": local_files_only}
    options |= {"ignore_patterns": list(NEVER_FETCHED), "allow_patterns": None if allow is None else list(allow)}
    return with_retries(lambda: Path(huggingface_hub.snapshot_download(repo_id, **options)), repo_id, "read")


def list_files(repo_id: str, *, revision: str | None = None, token: str | bool | None = None) -> list[str]:
    """Paths of the files in a model repository, sorted; offline, of those fetched before.

    Raises:
        ConfigError: there is no such repository or revision, or it cannot be reached and nothing of it was fetched.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    def ask() -> list[str]:
        try:
            return sorted(HfApi(token=token).list_repo_files(repo_id, revision=revision))
        except OfflineModeIsEnabled:
            if cached := _cached_files(repo_id, revision, None):
                return cached
            raise

    return with_retries(ask, repo_id, "list")


def _cached_files(repo_id: str, revision: str | None, cache_dir: str | Path | None) -> list[str]:
    """Paths of what was fetched of a repository before; empty where nothing was."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    root = Path(cache_dir or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type="model")
    revision = revision or "main"
    reference = root / "refs" / revision
    snapshot = root / "snapshots" / (reference.read_text().strip() if reference.is_file() else revision)
    return sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())


def check_name(repo_id: str, name: str) -> None:
    """Refuse a path that is a pickle's, or that leaves the repository.

    Raises:
        ConfigError: it is.
    """
    if is_pickle_name(name):
        raise ConfigError(
            f"{repo_id!r}: {name} is a pickle, which can run any code when it is read; mmcl reads safetensors: ask the "
            f"repository's owner for model.safetensors, or convert the file yourself where you trust it"
        )
    parts = name.replace("\\", "/").split("/")
    if not name or name.startswith("/") or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise ConfigError(f"{repo_id!r}: the file name {name!r} leaves the repository; want a path inside it")


__all__ = ["check_name", "fetch_file", "fetch_snapshot", "list_files", "one_sentence", "quiet_client"]
