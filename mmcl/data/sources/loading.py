"""`load(DATA)`: one name for any data set, and one function that reads it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.built_in import OpenedShapes, is_built_in
from mmcl.data.sources.columns import check_column_names
from mmcl.data.sources.folder import open_folder
from mmcl.data.sources.hub.streaming import STREAMING_OPTIONS, open_streamed, streaming_bytes
from mmcl.data.sources.opened import OpenedData, OpenedRows, OpenedVectors
from mmcl.data.sources.options import check_options, split_options
from mmcl.data.sources.resplitting import SPLIT_OPTIONS, resplit
from mmcl.data.sources.rows import Source
from mmcl.data.sources.tables.tables import TABLE_OPTIONS, TABLE_SUFFIXES, open_table
from mmcl.data.splits.names import canonical_split, canonical_splits, choose_split
from mmcl.errors import ConfigError, DataError

MIXTURE_SUFFIXES = (".yaml", ".yml")
_SPLIT = re.compile(r"[\w.+-]+")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")

# What a kind of data takes behind its ``?``, beside what every kind without splits of its own takes (SPLIT_OPTIONS).
SOURCE_OPTIONS: dict[str, tuple[str, ...]] = {
    "hub": ("config", *STREAMING_OPTIONS),
    "shards": (),
    "folder": (*TABLE_OPTIONS, *STREAMING_OPTIONS),
    "table": (*TABLE_OPTIONS, *STREAMING_OPTIONS),
    "mixture": (),
    "vectors": (),
}


class Reference(NamedTuple):
    """A data reference taken apart: ``path/to/emoji:test`` is base ``path/to/emoji`` and split ``test``.

    The base keeps its options: that of ``shapes?train=40:test`` is ``shapes?train=40``.
    """

    base: str
    split: str | None


def parse_reference(data: str | Path) -> Reference:
    """Take ``BASE[?key=value&...][:SPLIT]`` apart.

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
        data: what to read, ``BASE[?key=value&key=value][:SPLIT]``. The base is

            - a folder: ``metadata.jsonl``/``.csv``/``.parquet`` beside images, images with ``.txt`` files, one folder a
              class, split folders of these, what `datasets` saved, or WebDataset shards (see ``open_folder``);
            - a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file; a column ``image``, ``file_name`` or of a common
              name (see ``ALIASES``; what is guessed is logged) names the image, or holds it as base64 text or, in
              Parquet, as bytes; a column ``split`` names the split. ``?encoding=cp1252`` and ``?separator=;`` tell how
              text is written;
            - COCO's ``captions_*.json``, a Karpathy split file ``dataset_*.json``, Flickr's caption files;
            - WebDataset shards: ``shards-{000..099}.tar``, a pattern with ``*``, or one ``.tar``;
            - ``owner/name[@revision][?config=NAME]``, a data set on the Hugging Face Hub; it and Parquet here are read
              in pieces, images when they are needed, with ``?streaming=true[&buffer_mb=1024]`` (see ``read_streamed``);
            - a ``.yaml`` file that names several of these and their weights (see ``open_mixture``);
            - ``shapes[?train=4000&test=200&seed=1&image_size=64]``, built in;
            - ``vectors:FILE.npz`` or ``.safetensors``, embeddings computed elsewhere.

            Data without splits get them by ``?train=0.8&validation=0.1&test=0.1[&by=COLUMN&seed=0&captions=false]``
            (see ``assign_splits``) or ``?splits=FILE``, a table of ids and splits.
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
    opened = open_data(parse_reference(data).base, columns=columns, images=images, progress=progress)
    return load_split(opened, data, split)


def load_split(opened: OpenedData, data: str | Path, split: str | None) -> ImageTextDataset:
    """One split of data that are opened already.

    Args:
        opened: what ``open_data`` made of ``data``.
        data: DATA or DATA:SPLIT.
        split: the split, instead of behind ``data``.

    Raises:
        DataError: there is no such split, or no row can be used.
        ConfigError: ``split`` contradicts ``data``.
    """
    base, named = parse_reference(data)
    if split is not None and named is not None and canonical_split(split) != canonical_split(named):
        raise ConfigError(f"{os.fspath(data)} names the split {named!r}, and split={split!r} another")
    return opened.dataset(choose_split(opened.splits(), split or named, data=base))


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
    opened = open_data(reference.base, columns=columns, images=images, progress=progress)
    names = opened.splits()
    if reference.split is not None or not names:
        chosen = choose_split(names, reference.split, data=reference.base)
        return {chosen and canonical_split(chosen): opened.dataset(chosen)}
    found = {name: choose_split(names, name, data=reference.base) for name in canonical_splits(names)}
    return {name: opened.dataset(spelt) for name, spelt in found.items()}


def available_splits(
    data: str | Path, *, columns: Mapping[str, str] | None = None, images: str | Path | None = None
) -> list[str]:
    """The splits of a data set, train, validation and test first; empty when it has none. A ``:SPLIT`` is ignored.

    Raises:
        DataError: there is no such data.
    """
    return canonical_splits(open_data(parse_reference(data).base, columns=columns, images=images).splits())


def open_data(
    base: str,
    *,
    columns: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> OpenedData:
    """What a reference without its split names, opened: its splits can be asked for, then the rows of each.

    Who wants several splits opens the data once; ``load`` opens them at each call.

    Args:
        base: of ``parse_reference``.
        columns, images, progress: as ``load`` takes them.

    Raises:
        DataError: there are no such data.
        ConfigError: an option that these data do not have, or a value that it cannot take.
    """
    columns = {key: value for key, value in (columns or {}).items() if value is not None}
    check_column_names(columns)
    path, options = split_options(base)
    if is_built_in(path):
        return OpenedShapes(base, options, progress=progress)
    kind = _kind(path)
    check_options(base, options, (*SOURCE_OPTIONS[kind], *SPLIT_OPTIONS))
    own = {key: value for key, value in options.items() if key in SOURCE_OPTIONS[kind]}
    if kind == "vectors":
        opened: OpenedData = OpenedVectors(base, path.removeprefix("vectors:"))
    elif kind == "mixture":
        from mmcl.data.sources.mixture import open_mixture

        opened = open_mixture(base, path, columns=columns, images=images, progress=progress)
    else:
        source = open_source(path, columns=columns, images=images, options=own, progress=progress)
        opened = OpenedRows(base, source, columns=columns)
    rest = {key: value for key, value in options.items() if key not in own}
    return resplit(opened, rest, columns=columns) if rest else opened


def _kind(path: str) -> str:
    """A key of SOURCE_OPTIONS."""
    if path.startswith("vectors:"):
        return "vectors"
    place = Path(path).expanduser()
    if place.suffix.lower() == ".parquet" and "*" in place.name:
        return "table"
    if place.suffix == ".tar" or ".tar." in place.name or (any(m in place.name for m in "{*") and not place.exists()):
        return "shards"
    if place.suffix.lower() in MIXTURE_SUFFIXES and not place.is_dir():
        return "mixture"
    if place.is_dir():
        return "folder"
    return "hub" if not place.exists() and _is_hub_id(path) else "table"


def open_source(
    base: str,
    *,
    columns: Mapping[str, str],
    images: str | Path | None,
    options: Mapping[str, str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Source:
    """The source of rows that a path, shards or a Hub id is; reads no more than it must to know the splits.

    Args:
        base: the reference, without options and split.
        columns: the user's column names; ``image`` and ``split`` matter here.
        images: the folder that relative image paths start from.
        options: those of ``SOURCE_OPTIONS`` that were given.
        progress: told how many shards are indexed.

    Raises:
        DataError: there are no such data.
    """
    options = options or {}
    root = None if images is None else Path(images).expanduser()
    if root is not None and not root.is_dir():
        raise DataError(f"images: there is no folder {root.absolute()}{_near(root)}")
    path, kind = Path(base).expanduser(), _kind(base)
    if kind == "shards":
        from mmcl.data.sources.shards.shards import expand_shards, open_shards

        return open_shards(expand_shards(path), progress=progress)
    stream_bytes = streaming_bytes(base, options)
    options = {key: value for key, value in options.items() if key not in STREAMING_OPTIONS}
    if stream_bytes is not None and kind != "hub":
        check_options(f"{base}?streaming=true", options, ())
        return open_streamed(path, columns=columns, images=root, max_bytes=stream_bytes)
    if kind == "folder":
        return open_folder(path, images=root, columns=columns, options=options)
    if kind == "hub":
        from mmcl.data.sources.hub.hub_datasets import HubDataset

        return HubDataset(base, columns=columns, stream_bytes=stream_bytes, **options)
    if not path.exists():
        raise DataError(f"there is no {path.absolute()}{_near(path)}; wanted a folder, a table, shards or a Hub id")
    return open_table(path, images=root, columns=columns, options=options)


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
