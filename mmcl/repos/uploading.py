"""`upload`: a plan's files to a repository of the Hub in one commit, checked before it is called done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import mmcl
from mmcl.errors import ConfigError
from mmcl.logs import get_logger
from mmcl.repos import repository_state as state
from mmcl.repos.hub_errors import CONFLICTS, FIRST_WAIT_SECONDS, is_transient, one_sentence, quiet_client, status_of
from mmcl.repos.hub_errors import with_retries as retry
from mmcl.repos.manifest import Digest, digest_bytes, digest_file, read_manifest, write_manifest
from mmcl.repos.planning import MANIFEST, PlannedFile, UploadPlan

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

log = get_logger(__name__)

Progress = Callable[[str, int, int], None]

CREATING, SENDING, COMMITTING, CHECKING = "creating", "sending", "committing", "checking"
COMMIT_TRIES = 6
# Files below this go to be looked at together; each larger one by itself, so that a break costs one file.
SMALL_BYTES = 2**22


@dataclass(frozen=True)
class Pushed:
    """What is on the Hub now.

    Attributes:
        url: the commit's address.
        commit: its sha.
        repo_id: ``owner/name``.
        pr_url: the pull request's address, where one was asked for.
        deleted: files of an earlier push that this commit took out.
        changed: False where all of it lay there already, and the commit is the one that was the newest.
    """

    url: str
    commit: str
    repo_id: str
    pr_url: str | None = None
    deleted: tuple[str, ...] = ()
    changed: bool = True


def upload(
    plan: UploadPlan,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Push model",
    token: str | bool | None = None,
    progress: Progress | None = None,
) -> Pushed:
    """Send a plan's files to a model repository as one commit, and compare what is there with the plan.

    Large files are sent first, one by one, and kept by the Hub; only then is the one commit made that shows all files
    at once. So a repository is as it was until it is as it shall be, and the same call after a break sends what is
    missing alone. A file ``mmcl_push.json`` lists what was pushed with digests: files of an earlier push that the plan
    has no more, and that nobody changed since, are taken out in the same commit; no other file is. Busy servers (5xx)
    and broken connections are tried again with growing waits, and so is a commit that somebody else's came before;
    what no waiting mends (401, 403, 404) ends at once. Where the Hub and the package ``hf_xet`` offer it, large
    files go by Xet's protocol, with nothing to be set here.

    Args:
        plan: from ``plan_upload``.
        repo_id: ``owner/name``; made where it is missing.
        private: whether a repository that is made is private; None for the owner's default.
        revision: branch to commit to, made from ``main`` where it is missing; None for ``main``.
        create_pr: open a pull request with the commit in place of changing the branch.
        message: the commit's.
        token: to log in with; None for the one that ``hf auth login`` or ``HF_TOKEN`` left.
        progress: called with (what, done, total); bytes while files are sent.

    Raises:
        ConfigError: the plan refuses a file, the Hub does not let it happen, or what lies there afterwards is not what
            was sent; the sentence says what is on the Hub.

    Example:
        >>> pushed = upload(plan_upload("runs/emoji/model"), "owner/emoji")     # doctest: +SKIP
        >>> pushed.url                                                          # doctest: +SKIP
    """
    plan.check()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise one_sentence(error, repo_id, "push to") from None
    if repo_id.count("/") != 1:
        raise ConfigError(f"{repo_id!r} is no id of a repository; want owner/name")
    api = HfApi(token=token, library_name="mmcl", library_version=mmcl.__version__)
    push = _Push(api, plan, repo_id, revision or "main", create_pr, message, progress or (lambda what, done, total: 0))
    push.prepare(private)
    push.send()
    pushed = push.commit()
    push.check(pushed)
    return pushed


@dataclass
class _Push:
    api: HfApi
    plan: UploadPlan
    repo_id: str
    revision: str
    create_pr: bool
    message: str
    progress: Progress
    digests: dict[str, Digest] = field(default_factory=dict)
    manifest: bytes = b""
    pull_requests: frozenset[str] = frozenset()
    deleted: tuple[str, ...] = ()
    tried: bool = False

    def prepare(self, private: bool | None) -> None:
        """Make the repository and the branch where they are missing, and look at the files."""
        self.progress(CREATING, 0, 1)
        retry(lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True), self.repo_id, "create")
        if private and retry(lambda: self.api.model_info(self.repo_id), self.repo_id, "read").private is False:
            raise ConfigError(
                f"{self.repo_id!r} is there already and is public; --private makes new repositories private alone: "
                f"make it private in its settings on the Hub, or push without --private; nothing was sent"
            )
        if self.revision != "main" and not self.revision.startswith("refs/"):
            retry(lambda: self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True),
                  self.repo_id, f"make the branch {self.revision!r} of")  # fmt: skip
        if self.create_pr:
            self.pull_requests = frozenset(state.pull_requests(self.api, self.repo_id))
        self._check_card()
        for file in self.plan.files:
            self.digests[file.path] = digest_file(file)
        self.manifest = write_manifest(self.digests)
        self.digests[MANIFEST] = digest_bytes(self.manifest)
        self.progress(CREATING, 1, 1)

    def _check_card(self) -> None:
        """Have the Hub look at the card's front matter before large files are sent."""
        for file in self.plan.files:
            if file.path == "README.md":
                text = file.source.read_text(encoding="utf-8")
                reason = retry(
                    lambda text=text: state.card_refusal(text), self.repo_id, "have the model card checked for"
                )
                if reason is not None:
                    raise ConfigError(f"the Hub refuses the model card ({reason}); mend README.md; nothing was sent")

    def _additions(self, files: tuple[PlannedFile, ...]) -> list[Any]:
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(file.path, str(file.source)) for file in files]

    def send(self) -> None:
        """Send the large files; the Hub keeps them whether or not a commit follows."""
        small = tuple(file for file in self.plan.files if file.size <= SMALL_BYTES)
        parts = [small, *((file,) for file in self.plan.files if file.size > SMALL_BYTES)]
        done, total = 0, self.plan.size
        self.progress(SENDING, 0, total)
        for part in parts:
            self._send_part(part)
            done += sum(file.size for file in part)
            self.progress(SENDING, done, total)

    def _send_part(self, part: tuple[PlannedFile, ...]) -> None:
        doing = "send files (nothing was committed; the same command again sends what is missing alone) to"

        def send() -> None:
            # New objects each time: they remember what an earlier try heard from the Hub.
            self.api.preupload_lfs_files(
                self.repo_id, self._additions(part), revision=self.revision, create_pr=self.create_pr, free_memory=False
            )

        retry(send, self.repo_id, doing)

    def commit(self) -> Pushed:
        """The one commit; made anew on the newest state where somebody else's came first."""
        self.progress(COMMITTING, 0, 1)
        for number in range(1, COMMIT_TRIES + 1):
            try:
                with quiet_client():
                    pushed = self._try_commit()
                self.progress(COMMITTING, 1, 1)
                return pushed
            except ConfigError:
                raise
            except Exception as error:
                may_help = is_transient(error) or status_of(error) in CONFLICTS
                if number == COMMIT_TRIES or not may_help:
                    raise self._not_committed(error) from None
                log.warning(
                    "%s: the commit was not taken; try %d of %d follows", self.repo_id, number + 1, COMMIT_TRIES
                )
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (number - 1))
                if self.create_pr and (opened := self._opened_pull_request()):
                    return opened  # the commit was made, and its answer was lost
        raise AssertionError("unreachable")

    def _not_committed(self, error: Exception) -> ConfigError:
        doing = "commit (the files that were sent are kept; the same command again sends what is missing alone) to"
        if status_of(error) in CONFLICTS:
            return ConfigError(
                f"cannot {doing} {self.repo_id!r} on the Hub: others commit to it at the same time; try again when "
                f"they have done"
            )
        return one_sentence(error, self.repo_id, doing)

    def _try_commit(self) -> Pushed:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        parent, remote = state.newest(self.api, self.repo_id, self.revision)
        deleted = self._outdated(parent, remote)
        operations = [*self._additions(self.plan.files), CommitOperationAdd(MANIFEST, self.manifest)]
        if not deleted and not self._missing(remote):
            # After a try, this is the commit that it made, and whose answer was lost.
            url = f"{self.api.endpoint}/{self.repo_id}/commit/{parent}"
            return Pushed(url, parent, self.repo_id, deleted=self.deleted, changed=self.tried)
        self.tried, self.deleted = True, tuple(deleted)
        made = self.api.create_commit(
            self.repo_id,
            [*operations, *(CommitOperationDelete(path, is_folder=False) for path in deleted)],
            commit_message=self.message,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=parent,
        )
        return Pushed(made.commit_url, made.oid, self.repo_id, made.pr_url, self.deleted)

    def _missing(self, remote: Mapping[str, RepoFile]) -> list[str]:
        """Paths whose content is not there as it should be."""
        return [path for path, digest in self.digests.items() if path not in remote or not digest.is_of(remote[path])]

    def _outdated(self, parent: str, remote: Mapping[str, RepoFile]) -> list[str]:
        """Files of an earlier push that are no longer pushed, and lie there as that push left them."""
        listed = MANIFEST in remote
        earlier = read_manifest(self.api.hf_hub_download(self.repo_id, MANIFEST, revision=parent)) if listed else {}
        self._tell_of_card(remote.get("README.md"), earlier.get("README.md"))
        gone = [path for path in earlier if path not in self.digests and path in remote]
        kept = [path for path in gone if not earlier[path].is_of(remote[path])]
        if kept:
            log.warning("%s: kept on the Hub, for they were changed there since: %s", self.repo_id, ", ".join(kept))
        return [path for path in gone if path not in kept]

    def _tell_of_card(self, lying: RepoFile | None, pushed: Digest | None) -> None:
        ours = self.digests.get("README.md")
        if lying is None or ours is None or ours.is_of(lying) or (pushed is not None and pushed.is_of(lying)):
            return
        log.warning("%s: README.md there was written by others; this replaces it, the history keeps it", self.repo_id)

    def _opened_pull_request(self) -> Pushed | None:
        """A pull request that is there since, with just these files."""
        for name in set(state.pull_requests(self.api, self.repo_id)) - self.pull_requests:
            commit, remote = retry(lambda name=name: state.newest(self.api, self.repo_id, name), self.repo_id, "read")
            if not self._missing(remote):
                root = f"{self.api.endpoint}/{self.repo_id}"
                number = name.rpartition("/")[2]
                url = f"{root}/commit/{commit}"
                return Pushed(url, commit, self.repo_id, f"{root}/discussions/{number}", self.deleted)
        return None

    def check(self, pushed: Pushed) -> None:
        """Compare what lies on the Hub at the commit with the plan."""
        self.progress(CHECKING, 0, 1)
        doing = f"check the commit {pushed.commit[:8]}, which was made, of"
        missing = self._missing(
            retry(lambda: state.files_at(self.api, self.repo_id, pushed.commit), self.repo_id, doing)
        )
        if missing:
            raise ConfigError(
                f"{self.repo_id!r}: the commit {pushed.commit[:8]} was made, but {missing[0]}"
                f"{f' and {len(missing) - 1} more' if missing[1:] else ''} is not there as it was sent; the Hub or "
                f"something on the way changed it: push again"
            )
        self.progress(CHECKING, 1, 1)
