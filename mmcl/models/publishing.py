"""A dual encoder as a repository of the Hub: what `DualEncoder`'s methods of the mixin's names do."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from mmcl.errors import ConfigError
from mmcl.models.dual_encoder import DualEncoder
from mmcl.models.opening.references import resolve_path

TAGS = ("mmcl", "contrastive-learning", "image-text-retrieval", "zero-shot")
_CARD = """---
library_name: mmcl
pipeline_tag: zero-shot-image-classification
tags:
{tags}
---

# {name}

An image-text embedding model: images and captions become {dim} numbers each, and what belongs together lies close.

```python
import mmcl

model = mmcl.load("{repo_id}")
images = model.encode_image(["picture.jpg"])
texts = model.encode_text(["a red apple"])
scores = images @ texts.T
```
"""


def save_model(model: DualEncoder, folder: str | Path) -> Path:
    """Write a model's folder.

    Raises:
        ConfigError: it cannot be written.
    """
    from mmcl.models.saving import save_pretrained

    try:
        return save_pretrained(model, folder)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror or error}); name another folder") from error


def open_model(
    reference: str | Path, *, revision: str | None, token: str | bool | None, **fetching: Any
) -> DualEncoder:
    """Any MODEL; a Hub id with another cache, anew, or only from what was fetched before.

    Args:
        reference: the MODEL.
        revision, token: of a Hub id.
        fetching: ``cache_dir``, ``force_download``, ``local_files_only`` of ``fetch_snapshot``.

    Raises:
        ConfigError: there is no such model, or it cannot be reached or read.
    """
    from mmcl.models.opening.opening import open_dual_encoder

    name = os.path.expanduser(resolve_path(str(reference)))
    chosen = {key: value for key, value in fetching.items() if value}
    if token is False or chosen:
        if os.path.isdir(name):
            return open_dual_encoder(reference)
        repo_id, _, pinned = name.partition("@")
        if repo_id.count("/") == 1 and ":" not in repo_id:
            from mmcl.repos.downloading import fetch_snapshot

            return open_dual_encoder(
                fetch_snapshot(repo_id, revision=revision or pinned or None, token=token, **chosen)
            )
    return open_dual_encoder(reference, revision=revision, token=token if isinstance(token, str) else None)


def push_model(
    model: DualEncoder,
    repo_id: str,
    *,
    message: str,
    private: bool | None,
    token: str | bool | None,
    branch: str | None,
    create_pr: bool,
) -> str:
    """Push a model with a short card; a card that somebody wrote there stays. Returns the commit's address.

    Raises:
        ConfigError: the Hub does not let it happen.
    """
    from mmcl.repos.planning import plan_upload
    from mmcl.repos.portable import make_portable
    from mmcl.repos.uploading import upload

    repo_id = _full_id(repo_id, token)
    with tempfile.TemporaryDirectory(prefix="mmcl-push-") as temporary:
        folder = save_model(model, temporary)
        make_portable(folder)
        card = _written_card(repo_id, branch, token) or write_short_card(repo_id, model.embedding_dim)
        (folder / "README.md").write_text(card, encoding="utf-8")
        pushed = upload(
            plan_upload(folder), repo_id, private=private, revision=branch, create_pr=create_pr, message=message,
            token=token,
        )  # fmt: skip
    return pushed.url


def write_short_card(repo_id: str, embedding_dim: int) -> str:
    """A card that the Hub takes and that says how to load the model.

    Example:
        >>> write_short_card("owner/name", 256).splitlines()[1]
        'library_name: mmcl'
    """
    tags = "\n".join(f"- {tag}" for tag in TAGS)
    return _CARD.format(tags=tags, name=repo_id.rpartition("/")[2], dim=embedding_dim, repo_id=repo_id)


def _full_id(repo_id: str, token: str | bool | None) -> str:
    """``owner/name``; a name alone belongs to who is logged in."""
    if "/" in repo_id or not repo_id:
        return repo_id
    from huggingface_hub import HfApi

    from mmcl.repos.hub_errors import with_retries

    return f"{with_retries(lambda: HfApi(token=token).whoami(), repo_id, 'find the owner of')['name']}/{repo_id}"


def _written_card(repo_id: str, branch: str | None, token: str | bool | None) -> str | None:
    """The card that lies in the repository and that no push of mmcl's put there."""
    from mmcl.repos.downloading import fetch_file
    from mmcl.repos.manifest import digest_bytes, read_manifest
    from mmcl.repos.planning import MANIFEST

    try:
        card = fetch_file(repo_id, "README.md", revision=branch, token=token)
        listed = fetch_file(repo_id, MANIFEST, revision=branch, token=token)
    except ConfigError:
        return None  # no such repository or branch yet; anything else shows when it is pushed to
    if card is None:
        return None
    earlier = read_manifest(str(listed)).get("README.md") if listed is not None else None
    if earlier is not None and earlier == digest_bytes(card.read_bytes()):
        return None
    return card.read_text(encoding="utf-8")
