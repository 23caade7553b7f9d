"""`push`: a run or a model to the Hub, with its card, in one commit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mmcl.errors import ConfigError
from mmcl.hub.formats import find_format
from mmcl.hub.staging import StageOptions, check_source, stage
from mmcl.repos.planning import UploadPlan, plan_upload
from mmcl.repos.repository_state import check_login
from mmcl.repos.uploading import Pushed, upload

Progress = Callable[[str, int, int], None]

MESSAGE = "Push model"


@dataclass(frozen=True)
class PushReport:
    """What was, or would be, pushed.

    Attributes:
        repo_id: ``owner/name``.
        files: path -> bytes.
        refused: path -> why it may not go and what to do; empty after a push.
        pushed: address and commit; None in a dry run.
        formats: what the repository can be opened as, beside mmcl.
        notes: what a person should know, one sentence each.
        made_portable: files in which local paths were replaced.
    """

    repo_id: str
    files: dict[str, int]
    refused: dict[str, str] = field(default_factory=dict)
    pushed: Pushed | None = None
    formats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    made_portable: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def push(
    source: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    formats: Sequence[str] = (),
    dry_run: bool = False,
    token: str | bool | None = None,
    message: str = MESSAGE,
    allow: Sequence[str] = (),
    options: StageOptions | None = None,
    progress: Progress | None = None,
) -> PushReport:
    """Push a run or a model to a repository of the Hub, in one commit that is checked afterwards.

    The repository holds the mmcl model (transformers opens it where it fits), ``README.md`` with its pictures in
    ``assets/``, ``recipe.yaml`` and ``evaluation.json`` of a run, and the formats that are asked for: open_clip's and
    sentence-transformers' files beside the model, ONNX graphs in ``onnx/``. Local paths are replaced by portable names.
    Nothing goes where a file is refused: pickles, secrets, data, hidden files, links out of the folder.

    Args:
        source: a run folder, or a folder with a model.
        repo_id: ``owner/name``; made where it is missing.
        private, revision, create_pr, token, message: as for ``mmcl.repos.uploading.upload``.
        formats: further formats, of ``mmcl.hub.formats``; each is compared with the model before it goes.
        dry_run: say what would go, and send nothing; needs no network.
        allow: patterns of paths that may go though they are data or of an unknown kind.
        options: card, unfinished runs; its repo_id and formats are replaced by those given here.
        progress: called with (what, done, total).

    Raises:
        ConfigError: there is no model, the run has not ended, a file may not go, a format does not fit, or the Hub does
            not let it happen; one sentence says what to do.

    Example:
        >>> report = push("runs/emoji", "owner/emoji", private=True)     # doctest: +SKIP
        >>> report.pushed.url                                            # doctest: +SKIP
    """
    chosen = replace(options or StageOptions(), repo_id=repo_id, formats=tuple(formats))
    _check_id(repo_id)
    check_source(Path(source).expanduser(), chosen)
    for name in formats:
        find_format(name)
    if not dry_run:
        check_login(repo_id, token)
    temporary = Path(tempfile.mkdtemp(prefix="mmcl-push-"))
    try:
        staged = stage(source, temporary, options=chosen, progress=progress)
        plan = plan_upload(temporary, allow=allow)
        plan = replace(plan, folder=Path(source))  # the folder that people know
        report = PushReport(
            repo_id,
            files={file.path: file.size for file in plan.files},
            refused={file.path: f"{file.reason}; {file.fix}" for file in plan.refused},
            formats=staged.formats,
            notes=tuple(staged.notes),
            made_portable=tuple(staged.made_portable),
        )
        if dry_run:
            return report
        return replace(report, pushed=_upload(plan, repo_id, private, revision, create_pr, message, token, progress))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _upload(
    plan: UploadPlan,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str,
    token: str | bool | None,
    progress: Progress | None,
) -> Pushed:
    return upload(
        plan, repo_id, private=private, revision=revision, create_pr=create_pr, message=message, token=token,
        progress=progress,
    )  # fmt: skip


def _check_id(repo_id: str) -> None:
    """Refuse an id before anything is put together; the Hub need not be asked for that."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        repo_id = ""
    if repo_id.count("/") != 1:
        raise ConfigError(f"{repo_id!r} is no id of a repository; want owner/name")
