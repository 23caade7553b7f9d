"""`load(DATA)`: one name for any data set, and one function that reads it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.columns import check_column_names
from mmcl.data.sources.folder import open_folder
from mmcl.data.sources.normalise import normalise
from mmcl.data.sources.rows import OneTable, Source
from mmcl.data.sources.tables import TABLE_SUFFIXES, read_tables
from mmcl.data.splits import canonical_split, canonical_splits, choose_split
from mmcl.errors import ConfigError, DataError

_SPLIT = re.compile(r"[\w.+-]+")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?(\?config=[\w.-]+)?")


class Reference(NamedTuple):
    """A data reference taken apart: ``path/to/emoji:test`` is base ``path/to/emoji`` and split ``test``."""

    base: str
    split: str | None


def parse_reference(data: str | Path) -> Reference:
    """Take ``DATA`` or ``DATA:SPLIT`` apart.

    What follows the last colon is a split when it looks like a name and the whole is no existing path;
    ``vectors:FILE`` and ``C:\\data`` keep their colons.
    """
    text = os.fspath(data)
    head, colon, tail = text.rpartition(":")
    is_drive = len(head) == 1 and head.isalpha()
    if not colon or not head or head == "vectors" or is_drive or not _SPLIT.fullmatch(tail) or os.path.exists(text):
        return Reference(text, None)
    return Reference(head, tail)


def load(
    data: str | Path,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> ImageTextDataset:
    """Read a data set: its table at once, its images one by one when they are used.

    Args:
        data: what to read, with ``:SPLIT`` behind it if it has several:

            - a folder: ``metadata.jsonl``/``.csv``/``.parquet`` beside images, images with ``.txt`` files, one folder a
              class, split folders of these, or WebDataset shards (see ``open_folder``);
            - a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file; a column ``image``, ``file_name`` or ``path`` names
              the image (in Parquet it may hold the image), a column ``split`` the split;
            - a Karpathy split file ``dataset_*.json``;
            - WebDataset shards: ``shards-{000..099}.tar``, a pattern with ``*``, or one ``.tar``;
            - ``owner/name[@revision][?config=NAME]``, a data set on the Hugging Face Hub;
            - ``shapes[?train=4000&test=200&seed=1&image_size=64]``, built in;
            - ``vectors:FILE.npz`` or ``.safetensors``, embeddings computed elsewhere.
        split: the split, instead of behind ``data``; val, valid and dev are ``validation``.
        columns: canonical name (``image``, ``text``, ``label``, ``group``, ``domain``, ``negatives``, ``tags``, ``id``,
            ``split``) -> the data's own; a dot reaches into a struct (``{"text": "i18n.de"}``).
        images: the folder that relative image paths start from, where it is not the table's own.
        progress: where scenes are drawn: told what is drawn, how much is done, and of how much.

    Raises:
        DataError: there is no such data or split, a column is missing, or no row can be used.
        ConfigError: ``split`` contradicts ``data``, or ``columns`` has an unknown key.

    Example:
        >>> dataset = load("shapes?test=20:test")
        >>> len(dataset), dataset.images.read(0).shape[0]
        (20, 3)
    """
    reference = parse_reference(data)
    if split is not None and reference.split is not None and canonical_split(split) != canonical_split(reference.split):
        raise ConfigError(f"{os.fspath(data)} names the split {reference.split!r}, and split={split!r} another")
    asked = split or reference.split
    columns = {key: value for key, value in (columns or {}).items() if value is not None}
    check_column_names(columns)
    if reference.base.startswith("vectors:"):
        from mmcl.data.vectors import vectors_dataset

        choose_split([], asked, data=reference.base)
        return vectors_dataset(reference.base.removeprefix("vectors:"))
    if _is_shapes(reference.base):
        from mmcl.data.sources.built_in import load_built_in

        return load_built_in(reference.base, split=asked, progress=progress)
    source = open_source(reference.base, columns=columns, images=images)
    chosen = choose_split(source.splits(), asked, data=reference.base)
    name = reference.base if chosen is None else f"{reference.base}:{canonical_split(chosen)}"
    return normalise(source.rows(chosen), name=name, columns=columns)


def load_all(
    data: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str | None, ImageTextDataset]:
    """Every split of a data set, train, validation and test first; or the one that ``DATA:SPLIT`` names.

    Args:
        data, columns, images, progress: as ``load`` takes them.

    Returns:
        Split -> its rows; None is the key where the data have no splits.

    Raises:
        DataError, ConfigError: as ``load``.
    """
    reference = parse_reference(data)
    splits = [reference.split] if reference.split else available_splits(data, columns=columns, images=images)
    arguments = {"columns": columns, "images": images, "progress": progress}
    if not splits:
        return {None: load(data, **arguments)}
    return {canonical_split(split): load(reference.base, split=split, **arguments) for split in splits}


def available_splits(
    data: str | Path, *, columns: Mapping[str, str] | None = None, images: str | Path | None = None
) -> list[str]:
    """The splits of a data set, train, validation and test first; empty when it has none. A ``:SPLIT`` is ignored.

    Raises:
        DataError: there is no such data.
    """
    base = parse_reference(data).base
    if base.startswith("vectors:"):
        return []
    if _is_shapes(base):
        from mmcl.data.sources.built_in import built_in_splits

        return built_in_splits()
    return canonical_splits(open_source(base, columns=columns or {}, images=images).splits())


def open_source(base: str, *, columns: Mapping[str, str], images: str | Path | None) -> Source:
    """The source that a reference without its split names; reads no more than it must to know the splits.

    Raises:
        DataError: there is no such data.
    """
    root = None if images is None else Path(images).expanduser()
    if root is not None and not root.is_dir():
        raise DataError(f"images: there is no folder {root.absolute()}{_near(root)}")
    path = Path(base).expanduser()
    if path.suffix == ".tar" or ".tar." in path.name or (any(m in path.name for m in "{*") and not path.exists()):
        from mmcl.data.sources.shards import expand_shards, open_shards

        return open_shards(expand_shards(path))
    if path.is_dir():
        return open_folder(path, images=root, columns=columns)
    if not path.exists():
        if _is_hub_id(base):
            from mmcl.data.sources.hub_datasets import HubDataset

            return HubDataset(base, columns=columns)
        raise DataError(f"there is no {path.absolute()}{_near(path)}; wanted a folder, a table, shards or a Hub id")
    if path.suffix.lower() == ".json":
        from mmcl.data.sources.karpathy import is_karpathy, read_karpathy

        if is_karpathy(path):
            return OneTable(partial(read_karpathy, path, images=root))
    if path.suffix.lower() not in (*TABLE_SUFFIXES, ".json"):
        raise DataError(f"{path.absolute()}: cannot read this kind of file; wanted {', '.join(TABLE_SUFFIXES)} or .tar")
    reader = partial(read_tables, [path], root=root, image_column=columns.get("image"))
    return OneTable(reader, split_column=columns.get("split", "split"))


def _is_shapes(base: str) -> bool:
    return base.partition("?")[0] == "shapes" and not os.path.exists(base)


def _is_hub_id(base: str) -> bool:
    """A missing path is no Hub id when its first folder exists, or it ends like a table file."""
    is_path = base.startswith(".") or base.endswith((*TABLE_SUFFIXES, ".json")) or os.path.isdir(base.split("/")[0])
    return _HUB_ID.fullmatch(base) is not None and not is_path


def _near(path: Path) -> str:
    """A hint at a neighbour of a similar name."""
    parent = path.absolute().parent
    if not parent.is_dir():
        return f" (nor its folder {parent})"
    near = difflib.get_close_matches(path.name, os.listdir(parent), n=1)
    return f" (did you mean {parent / near[0]}?)" if near else ""
