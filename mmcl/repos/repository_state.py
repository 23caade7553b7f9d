"""What lies in a repository of the Hub, and what the Hub says of a card: questions alone, nothing is changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmcl.repos.hub_errors import with_retries
from mmcl.repos.secret_finding import redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile


def check_login(repo_id: str, token: str | bool | None) -> None:
    """Ask the Hub who a token belongs to: what is wrong with it is told before work is done for nothing.

    Args:
        repo_id: what is to be pushed to, for the message.
        token: as for ``upload``.

    Raises:
        ConfigError: there is none, it is not valid, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    def ask() -> None:
        HfApi(token=token, library_name="mmcl").whoami()

    with_retries(ask, repo_id, "push to")


def newest(api: HfApi, repo_id: str, revision: str) -> tuple[str, dict[str, RepoFile]]:
    """The newest commit of a branch or pull request, and its files by path. Raises what the Hub's client raises."""
    commit = api.model_info(repo_id, revision=revision).sha
    return commit, files_at(api, repo_id, commit)


def files_at(api: HfApi, repo_id: str, commit: str) -> dict[str, RepoFile]:
    """The files of a commit by path, with sizes and digests. Raises what the Hub's client raises."""
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def pull_requests(api: HfApi, repo_id: str) -> list[str]:
    """The names of a repository's pull requests, such as ``refs/pr/1``.

    Raises:
        ConfigError: they cannot be read.
    """

    def ask() -> list[str]:
        refs = api.list_repo_refs(repo_id, include_pull_requests=True)
        return [ref.ref for ref in refs.pull_requests or []]

    return with_retries(ask, repo_id, "read")


def card_refusal(text: str) -> str | None:
    """What the Hub has against the front matter of a card; None where it takes it."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(text, ignore_metadata_errors=True).validate("model")
    except ValueError as error:
        return " ".join(redact(str(error)).split())[:400]
    return None
