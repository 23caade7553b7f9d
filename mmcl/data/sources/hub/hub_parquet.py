"""The Parquet files of a data set on the Hub: its own, or the copy that the Hub makes of other formats."""

from __future__ import annotations

import re
from typing import Any

from mmcl.data.images.parquet_files import HubFile, HubFiles
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

CONVERTED = "refs/convert/parquet"  # the branch with the Hub's own copy
_PATHS_A_REQUEST = 500


def find_parquet(path: str, name: str | None, revision: str | None, *, commit: str) -> dict[str, HubFiles]:
    """The Parquet files of each split.

    Args:
        path: ``owner/name``.
        name: the configuration; None for the only or the default one.
        revision: a branch, tag or commit; None: the newest.
        commit: what the revision stands for.

    Returns:
        Split -> its files, those of the data set itself, or where it holds other formats (tars, folders of images), of
        the copy that the Hub made.

    Raises:
        DataError: there are none.
        Exception: whatever the Hub's client raises when it cannot be reached.
    """
    import datasets

    builder = datasets.load_dataset_builder(path, name=name, revision=revision)
    urls = {str(split): [str(url) for url in files] for split, files in (builder.config.data_files or {}).items()}
    own = {split: [_inside(url, path) for url in files] for split, files in urls.items()}
    if own and all(file is not None and file.endswith(".parquet") for files in own.values() for file in files):
        return _with_sizes(path, commit, {split: [str(file) for file in files] for split, files in own.items()})
    if revision is not None:
        raise DataError(
            f"{path}@{revision} holds no Parquet files, and the Hub's Parquet copy is of the newest revision alone; "
            f"leave the revision or ?streaming=true out"
        )
    return _converted(path, name or builder.config.name)


def _inside(url: str, path: str) -> str | None:
    """A file's path in its repository; None for files elsewhere."""
    match = re.fullmatch(rf"hf://datasets/{re.escape(path)}(@[^/]+)?/(.+)", url)
    return match[2] if match else None


def _converted(path: str, config: str) -> dict[str, HubFiles]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    api = HfApi()
    try:
        commit = api.dataset_info(path, revision=CONVERTED).sha
        files = api.list_repo_files(path, repo_type="dataset", revision=CONVERTED)
    except RevisionNotFoundError as error:
        raise DataError(
            f"{path} holds no Parquet files, and the Hub has made no Parquet copy of it ({CONVERTED}); leave "
            f"?streaming=true out to download it"
        ) from error
    found: dict[str, dict[str, list[str]]] = {}
    for file in sorted(files):
        parts = file.split("/")
        if len(parts) == 3 and file.endswith(".parquet"):
            found.setdefault(parts[0], {}).setdefault(parts[1], []).append(file)
    if config not in found:
        raise DataError(
            f"{path}: the Hub's Parquet copy has no configuration {config!r}, only {', '.join(found) or 'none'}; name "
            f"one, as in {path}?streaming=true&config=NAME, or leave ?streaming=true out"
        )
    splits: dict[str, list[str]] = {}
    for split, paths in found[config].items():
        if split.startswith("partial-"):
            log.warning("%s: the Hub's Parquet copy holds only the first part of the split %s", path, split[8:])
        splits[split.removeprefix("partial-")] = paths
    log.info("%s holds no Parquet files; it is streamed from the Hub's Parquet copy", path)
    return _with_sizes(path, str(commit), splits)


def _with_sizes(path: str, commit: str, splits: dict[str, list[str]]) -> dict[str, HubFiles]:
    """Sizes are asked for at once; otherwise each opening of a file would ask for its own."""
    from huggingface_hub import HfApi

    api, sizes = HfApi(), dict[str, int]()
    names = [name for files in splits.values() for name in files]
    for start in range(0, len(names), _PATHS_A_REQUEST):
        some: list[Any] = names[start : start + _PATHS_A_REQUEST]
        for info in api.get_paths_info(path, some, repo_type="dataset", revision=commit):
            sizes[info.path] = info.size
    return {
        split: HubFiles(path, commit, [HubFile(name, sizes[name]) for name in files]) for split, files in splits.items()
    }
