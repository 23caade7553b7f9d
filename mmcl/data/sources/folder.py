"""Which kind of data a folder holds: a table beside images, splits, shards, what others saved, or images alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.sources.columns import guess_column
from mmcl.data.sources.known.coco import ANNOTATION_NAME
from mmcl.data.sources.known.flickr import is_caption_file
from mmcl.data.sources.loose_images import METADATA_NAMES, read_images
from mmcl.data.sources.rows import OneTable, RawRows, Source, SplitSources
from mmcl.data.sources.tables.tables import TABLE_SUFFIXES, TableFormat, open_table, read_tables, table_format
from mmcl.data.splits.names import canonical_split, is_split_name, split_prefix
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)


def open_folder(
    folder: Path,
    *,
    images: Path | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, str] | None = None,
) -> Source:
    """The source that a folder is. The first that fits counts:

    1. ``metadata.jsonl`` (``.csv``, ``.tsv``, ``.parquet``): its table. Without a ``split`` column, split folders
       inside make one from each path's first part.
    2. what ``save_to_disk`` of `datasets` wrote, or a cache of `datasets` with Arrow files.
    3. ``.tar`` files: WebDataset shards.
    4. split folders ``train/ validation/ test/`` (also val, valid, dev, eval): each is such a folder again.
    5. table files that begin with a split's name (``train.csv``, ``test-0-of-2.parquet``), here or in ``data/``.
    6. COCO's ``captions_train2017.json`` (one a split), here or in ``annotations/``; Karpathy's ``dataset_*.json``;
       the caption files of Flickr8k and Flickr30k; ``.parquet`` files where there are no images.
    7. images with ``.txt`` files of the same name, one caption a line, in any depth.
    8. one folder a class: the label is the folder's name, the text that name with spaces for ``_`` and ``-``.

    Hidden files are left out; links are followed.

    Args:
        folder: an existing folder.
        images: where relative image paths start, instead of the table's folder.
        columns: the user's column names; ``split`` and ``image`` matter here.
        options: those of ``tables.TABLE_OPTIONS`` that were given; they hold for every table inside.

    Raises:
        DataError: nothing of this is there; two folders or files are the same split; or it cannot be told which of
            several files is meant.
        ConfigError: an option has an impossible value.
    """
    columns, options = columns or {}, options or {}
    wanted = table_format(options, images=images, columns=columns)
    files, folders = _listing(folder)
    metadata = [name for name in files if name.lower() in METADATA_NAMES]
    if metadata:
        metadata.sort(key=lambda name: METADATA_NAMES.index(name.lower()))
        if len(metadata) > 1:
            log.warning("%s: %s is read, %s is not", folder, metadata[0], " and ".join(metadata[1:]))
        split_folders = [name for name in folders if is_split_name(name)]
        return OneTable(
            partial(_read_metadata, folder / metadata[0], wanted, columns, split_folders),
            split_column=columns.get("split", "split"),
        )
    from mmcl.data.sources.hub.saved_datasets import is_saved_dataset, open_saved_dataset

    if is_saved_dataset(files):
        return open_saved_dataset(folder, files, images=images, columns=columns)
    if any(name.endswith(".tar") for name in files):
        from mmcl.data.sources.shards.shards import open_shards

        return open_shards([folder / name for name in files if name.endswith(".tar")])
    split_folders = _split_folders(folder, folders)
    if split_folders:
        readers = {name: partial(_read_whole, folder / name, images, columns, options) for name in split_folders}
        return SplitSources(readers)
    tables = _tables_by_split(folder, files) or ("data" in folders and _tables_by_split(folder / "data")) or {}
    if tables:
        return SplitSources({split: partial(read_tables, paths, wanted) for split, paths in tables.items()})
    known = _open_known_files(folder, files, folders, images=images, columns=columns, options=options)
    return known or OneTable(partial(read_images, folder, wanted), split_column=columns.get("split", "split"))


def _listing(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder, sorted, without hidden ones."""
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not entry.name.startswith("__"):
                    folders.append(entry.name)
            elif entry.is_file():
                files.append(entry.name)
    return sorted(files), sorted(folders)


def _open_known_files(
    folder: Path,
    files: Sequence[str],
    folders: Sequence[str],
    *,
    images: Path | None,
    columns: Mapping[str, str],
    options: Mapping[str, str],
) -> Source | None:
    """The source of files that well-known data sets come with; None without any.

    Raises:
        DataError: several that cannot be told apart.
    """
    inside = [folder / name for name in files]
    if "annotations" in folders:
        inside += [folder / "annotations" / name for name in _listing(folder / "annotations")[0]]
    coco = [(path, match) for path in inside if (match := ANNOTATION_NAME.fullmatch(path.name))]
    others = [path for path in inside if path.name.startswith("dataset_") and path.suffix == ".json"]
    others += [path for path in inside if is_caption_file(path)]
    found = [path for path, _ in coco] + others
    splits = {match["split"] for _, match in coco}
    if len(splits) < len(coco) or (coco and others) or len(others) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise DataError(f"{folder.absolute()} has several files of captions ({listed}); name the one that is meant")
    if others:
        log.warning("%s: %s is read", folder, others[0].relative_to(folder))
        return open_table(others[0], images=images, columns=columns, options=options)
    if coco:
        log.warning("%s: %s read", folder, ", ".join(str(path.relative_to(folder)) for path, _ in coco))
        readers = {match["split"]: open_table(path, images=images).rows for path, match in coco}
        return SplitSources({split: partial(read, None) for split, read in readers.items()})
    return None


def _read_metadata(
    path: Path, wanted: TableFormat, columns: Mapping[str, str], split_folders: Sequence[str]
) -> RawRows:
    raw = read_tables([path], wanted)
    column = columns.get("split", "split")
    if not split_folders or column in raw.table.column_names:
        return raw
    image = columns.get("image") or guess_column(raw.table.schema, "image", source=raw.source)
    if image not in raw.table.column_names or raw.images is not None:
        return raw
    first = pc.list_element(pc.split_pattern(raw.table[image].cast(pa.string()), "/", max_splits=1), 0)
    splits = pc.if_else(pc.is_in(first, pa.array(split_folders)), first, None)
    return dataclasses.replace(raw, table=raw.table.append_column(column, splits))


def _read_whole(folder: Path, images: Path | None, columns: Mapping[str, str], options: Mapping[str, str]) -> RawRows:
    return open_folder(folder, images=images, columns=columns, options=options).rows(None)


def _split_folders(folder: Path, folders: list[str]) -> list[str]:
    named = [name for name in folders if is_split_name(name)]
    if len(named) == 1 and len(folders) > 1 and not _has_table(folder / named[0]):
        return []  # a class may be called "train"
    by_split: dict[str, list[str]] = {}
    for name in named:
        by_split.setdefault(canonical_split(name), []).append(name)
    for split, names in by_split.items():
        if len(names) > 1:
            raise DataError(f"{folder}: the folders {' and '.join(names)} are both the split {split}; rename one")
    return named


def _has_table(folder: Path) -> bool:
    return any(name.lower() in METADATA_NAMES for name in _listing(folder)[0])


def _tables_by_split(folder: Path, files: list[str] | None = None) -> dict[str, list[Path]]:
    if files is None:
        files = _listing(folder)[0]
    tables: dict[str, list[Path]] = {}
    for name in files:
        split = split_prefix(name) if name.lower().endswith(TABLE_SUFFIXES) else None
        if split is not None:
            tables.setdefault(canonical_split(split), []).append(folder / name)
    for split, paths in tables.items():
        if len({path.suffix.lower() for path in paths}) > 1:
            listed = ", ".join(path.name for path in paths)
            raise DataError(f"{folder}: the tables {listed} are all the split {split}; keep those of one kind")
    return tables
