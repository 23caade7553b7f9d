"""What a repository of the Hub holds, asked for once and with a time limit."""

from __future__ import annotations

from pathlib import Path

from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.repos.hub_errors import TRANSIENT, is_cut, one_sentence, quiet_client, status_of

log = get_logger(__name__)

TIMEOUT_SECONDS = 10


def ask_once(repo_id: str, *, revision: str | None = None, token: str | None = None) -> list[str] | Path:
    """The paths in a model repository; or, where the Hub must not or cannot be asked, the folder fetched before.

    Everything else is asked for after this answered, so a Hub that cannot be reached is known within seconds: its
    client would try again for half a minute, for every file that is looked for.

    Args:
        repo_id: ``owner/name``.
        revision: a branch, tag, commit or ``refs/pr/N``; None: main.
        token: instead of the one that is logged in.

    Raises:
        ConfigError: there is no such repository or revision, it may not be seen, or it cannot be reached and nothing
            of it was fetched before.
    """
    from huggingface_hub import HfApi

    for final in (False, True):
        try:
            with quiet_client():
                info = HfApi(token=token).model_info(repo_id, revision=revision, timeout=TIMEOUT_SECONDS)
            return sorted(file.rfilename for file in info.siblings or ())
        except Exception as error:  # the client raises httpx's errors too
            if status_of(error) in TRANSIENT and not final:
                continue  # a busy Hub is asked again
            before = fetched_before(repo_id, revision) if status_of(error) is None else None
            if before is None:
                told = one_sentence(error, repo_id, "open")
                raise ConfigError(f"there is no folder {repo_id!r}, and {told}") from None
            if is_cut(error):
                log.warning("the Hub cannot be reached; %s is taken as it was fetched before", repo_id)
            return before
    raise AssertionError("unreachable")


def fetched_before(repo_id: str, revision: str | None) -> Path | None:
    """The folder in the Hub's cache with what was fetched of a repository; None where nothing was."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(repo_id, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        # Complete for what it was opened as, the client calls it incomplete where the repository holds more.
        folder = getattr(error, "snapshot_path", None)
        return None if folder is None else Path(folder)
