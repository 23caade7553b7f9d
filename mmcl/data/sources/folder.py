"""Folders of images: with a metadata file, with caption files beside the images, or one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.batch import SkippedRow
from mmcl.data.sources.columns import ALIASES
from mmcl.data.sources.rows import OneTable, RawRows, Source, SplitSources
from mmcl.data.sources.tables import TABLE_SUFFIXES, read_tables
from mmcl.data.splits import canonical_split, is_split_name, split_prefix
from mmcl.errors import DataError

METADATA_NAMES = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def open_folder(folder: Path, *, images: Path | None = None, columns: Mapping[str, str] | None = None) -> Source:
    """The source that a folder is. The first that fits counts:

    1. ``metadata.jsonl`` (``.csv``, ``.tsv``, ``.parquet``): its table. Without a ``split`` column, split folders
       inside make one from each path's first part.
    2. ``.tar`` files: WebDataset shards.
    3. split folders ``train/ validation/ test/`` (also val, valid, dev, eval): each is such a folder again.
    4. table files that begin with a split's name (``train.csv``, ``test-0-of-2.parquet``), here or in ``data/``.
    5. images with ``.txt`` files of the same name, one caption a line, in any depth.
    6. one folder a class: the label is the folder's name, the text that name with spaces for ``_`` and ``-``.

    Args:
        folder: an existing folder.
        images: where relative image paths start, instead of the table's folder.
        columns: the user's column names; ``split`` and ``image`` matter here.

    Raises:
        DataError: nothing of this is there; or two folders are the same split.
    """
    columns = columns or {}
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    files = [entry.name for entry in entries if entry.is_file() and not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]
    metadata = [name for name in METADATA_NAMES if name in files]
    if metadata:
        split_folders = [name for name in folders if is_split_name(name)]
        return OneTable(
            partial(_read_metadata, folder / metadata[0], images, columns, split_folders),
            split_column=columns.get("split", "split"),
        )
    if any(name.endswith(".tar") for name in files):
        from mmcl.data.sources.shards import open_shards

        return open_shards([folder / name for name in files if name.endswith(".tar")])
    split_folders = _split_folders(folder, folders)
    if split_folders:
        return SplitSources({name: partial(_read_whole, folder / name, images, columns) for name in split_folders})
    tables = _tables_by_split(folder, files) or ("data" in folders and _tables_by_split(folder / "data")) or {}
    if tables:
        read = partial(read_tables, root=images, image_column=columns.get("image"))
        return SplitSources({split: partial(read, paths) for split, paths in tables.items()})
    return OneTable(partial(_read_images, folder))


def _read_metadata(path: Path, images: Path | None, columns: Mapping[str, str], split_folders: list[str]) -> RawRows:
    raw = read_tables([path], root=images, image_column=columns.get("image"))
    names = [columns[key] for key in ("image",) if columns.get(key)] or list(ALIASES["image"])
    image = next((name for name in names if name in raw.table.column_names), None)
    if not split_folders or columns.get("split", "split") in raw.table.column_names or image is None:
        return raw
    first = pc.list_element(pc.split_pattern(raw.table[image].cast(pa.string()), "/", max_splits=1), 0)
    splits = pc.if_else(pc.is_in(first, pa.array(split_folders)), first, None)
    table = raw.table.append_column(columns.get("split", "split"), splits)
    return RawRows(table, raw.source, raw.locate, raw.numbers, raw.skipped, raw.images, raw.root)


def _read_whole(folder: Path, images: Path | None, columns: Mapping[str, str]) -> RawRows:
    return open_folder(folder, images=images, columns=columns).rows(None)


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
    return any((folder / name).is_file() for name in METADATA_NAMES)


def _tables_by_split(folder: Path, files: list[str] | None = None) -> dict[str, list[Path]]:
    if files is None:
        files = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    tables: dict[str, list[Path]] = {}
    for name in files:
        split = split_prefix(name) if name.lower().endswith(TABLE_SUFFIXES) else None
        if split is not None:
            tables.setdefault(canonical_split(split), []).append(folder / name)
    return tables


def _read_images(folder: Path) -> RawRows:
    images, captions, tables = _walk(folder)
    if not images:
        raise DataError(
            f"{folder.absolute()} holds no data that mmcl can read: no {METADATA_NAMES[0]} (or .csv, .parquet), no "
            f"split folders, no .tar shards, no images"
        )
    inner = next((path for path in tables if os.path.basename(path) in METADATA_NAMES), None)
    if inner is not None:
        likely = (folder / inner).parent.absolute()
        likely = likely.parent if is_split_name(likely.name) else likely
        raise DataError(f"{folder.absolute()} is no data set itself; did you mean {likely}?")
    reader: Callable[[Path, list[str], set[str]], RawRows]
    if any(_caption_file(image) in captions for image in images):
        reader = _read_sidecars
    elif any(os.sep in image for image in images):
        reader = _read_classes
    else:
        raise DataError(
            f"{folder.absolute()} holds {len(images)} images without captions; add a {METADATA_NAMES[0]}, a .txt "
            f"beside each image ({_caption_file(images[0])}), or one folder a class"
        )
    return reader(folder, images, captions)


def _walk(folder: Path) -> tuple[list[str], set[str], list[str]]:
    """The images below a folder, sorted, its .txt and its table files; paths relative to it, hidden ones left out."""
    images, captions, tables = [], set(), []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        inside = os.path.relpath(parent, folder)
        for name in files:
            path = name if inside == "." else os.path.join(inside, name)
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(path)
            elif suffix == ".txt":
                captions.add(path)
            elif suffix in TABLE_SUFFIXES:
                tables.append(path)
    return sorted(images), captions, tables


def _caption_file(image: str) -> str:
    return os.path.splitext(image)[0] + ".txt"


def _read_sidecars(folder: Path, images: list[str], captions: set[str]) -> RawRows:
    texts, kept, skipped = [], [], []
    for row, image in enumerate(images):
        name = _caption_file(image)
        if name not in captions:
            skipped.append(SkippedRow(row, str(folder / image), f"no caption file {name}"))
            continue
        try:
            texts.append((folder / name).read_text(encoding="utf-8-sig").splitlines())
            kept.append(image)
        except (OSError, UnicodeDecodeError) as error:
            skipped.append(SkippedRow(row, str(folder / name), f"cannot be read ({error})"))
    table = pa.table({"file_name": pa.array(kept, pa.string()), "text": pa.array(texts, pa.list_(pa.string()))})
    return _folder_rows(folder, table, skipped)


def _read_classes(folder: Path, images: list[str], captions: set[str]) -> RawRows:
    inside = [image for image in images if os.sep in image]
    skipped = [
        SkippedRow(row, str(folder / image), "outside every class folder")
        for row, image in enumerate(images)
        if os.sep not in image
    ]
    labels = pa.array([image.split(os.sep, 1)[0] for image in inside], pa.string())
    table = pa.table({"file_name": inside, "text": class_text(labels), "label": labels})
    return _folder_rows(folder, table, skipped)


def class_text(labels: pa.Array) -> pa.Array:
    """Class names as text: ``_`` and ``-`` become spaces."""
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(labels, "[_-]+", " "))


def _folder_rows(folder: Path, table: pa.Table, skipped: list[SkippedRow]) -> RawRows:
    paths = table["file_name"]
    return RawRows(
        table,
        str(folder),
        lambda rows: [str(folder / paths[row].as_py()) for row in rows],
        skipped=skipped,
        root=folder,
    )
