"""Folders of images without a table: with caption files beside the images, or one folder a class."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.batch import SkippedRow
from mmcl.data.sources.rows import RawRows
from mmcl.data.sources.tables.tables import TABLE_SUFFIXES, TableFormat, read_tables
from mmcl.data.splits.names import is_split_name
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

METADATA_NAMES = tuple(f"metadata{suffix}" for suffix in TABLE_SUFFIXES)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_MANY, _MANY_SHARE = 10, 20  # caption files: a folder is in another encoding from ten and a twentieth of them
_SHOWN = 5
_TOGETHER = ".parquet"  # files of this kind are parts of one table, whatever their names


def read_images(folder: Path, wanted: TableFormat) -> RawRows:
    """Read a folder that has neither metadata nor splits: images with captions beside them, or one folder a class.

    Args:
        folder: the folder; images may lie at any depth.
        wanted: how the table is read, where there are no images and one table; ``encoding`` holds for captions too.

    Raises:
        DataError: nothing that can be read; or captions are in another encoding throughout.
    """
    images, captions, tables = _walk(folder)
    inner = next((path for path in tables if os.path.basename(path).lower() in METADATA_NAMES), None)
    if inner is not None:
        likely = (folder / inner).parent.absolute()
        likely = likely.parent if is_split_name(likely.name) else likely
        raise DataError(f"{folder.absolute()} is no data set itself; did you mean {likely}?")
    here = sorted(path for path in tables if os.sep not in path)
    if not images:
        return _read_tables_alone(folder, here, wanted)
    reader: Callable[[Path, list[str], dict[str, str]], RawRows]
    if any(_caption_file(image) in captions for image in images):
        reader = partial(_read_sidecars, encoding=wanted.encoding)
    elif any(os.sep in image for image in images):
        reader = _read_classes
    else:
        also = f", or name the table, as in {folder / here[0]}" if here else ""
        raise DataError(
            f"{folder.absolute()} holds {len(images)} images without captions; add a {METADATA_NAMES[0]}, a .txt "
            f"beside each image ({_caption_file(images[0])}), or one folder a class{also}"
        )
    if here:
        log.warning("%s: its images are read, and %s is not; name that file to read it", folder, ", ".join(here))
    return reader(folder, images, captions)


def _read_tables_alone(folder: Path, tables: Sequence[str], wanted: TableFormat) -> RawRows:
    """The rows of a folder without images: of its only table, or of .parquet files, which are parts of one."""
    if tables and (len(tables) == 1 or all(name.lower().endswith(_TOGETHER) for name in tables)):
        if len(tables) == 1:
            log.warning("%s: %s is read", folder, tables[0])
        return read_tables([folder / name for name in sorted(tables)], wanted)
    if tables:
        raise DataError(
            f"{folder.absolute()} has several tables ({', '.join(sorted(tables)[:_SHOWN])}); name the one that is "
            f"meant, or call them by their splits, as in train{Path(tables[0]).suffix}"
        )
    raise DataError(
        f"{folder.absolute()} holds no data that mmcl can read: no {METADATA_NAMES[0]} (or .csv, .parquet), no "
        f"split folders, no .tar shards, nothing that datasets saved, no images"
    )


def _walk(folder: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """The images below a folder, sorted, its .txt files and its tables; paths relative to it, hidden ones left out.

    The .txt files stand under their names with the suffix in lower case. Links to folders are followed once.
    """
    images, captions, tables, seen = [], {}, [], set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_tell_unreadable):
        place = os.stat(parent)
        if (place.st_dev, place.st_ino) in seen:  # a link back to a folder above
            folders[:] = []
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        inside = os.path.relpath(parent, folder)
        for name in files:
            path = name if inside == "." else os.path.join(inside, name)
            stem, suffix = os.path.splitext(path)
            suffix = suffix.lower()
            if name.startswith("."):
                continue
            if suffix in IMAGE_SUFFIXES:
                images.append(path)
            elif suffix == ".txt":
                captions[stem + suffix] = path
            elif suffix in TABLE_SUFFIXES:
                tables.append(path)
    return sorted(images), captions, tables


def _tell_unreadable(error: OSError) -> None:
    log.warning("%s: cannot be read (%s); what it holds is left out", error.filename, error.strerror)


def _caption_file(image: str) -> str:
    return os.path.splitext(image)[0] + ".txt"


def _read_sidecars(
    folder: Path, images: list[str], captions: dict[str, str], *, encoding: str | None = None
) -> RawRows:
    texts, kept, skipped = [], [], []
    for row, image in enumerate(images):
        name = captions.get(_caption_file(image))
        if name is None:
            skipped.append(SkippedRow(row, str(folder / image), f"no caption file {_caption_file(image)}"))
            continue
        try:
            with open(os.path.join(folder, name), "rb") as file:
                texts.append(_decoded(file.read(), encoding).splitlines())
            kept.append(image)
        except UnicodeDecodeError as error:
            skipped.append(SkippedRow(row, str(folder / name), f"cannot be read: not {encoding or 'UTF-8'} ({error})"))
        except OSError as error:
            skipped.append(SkippedRow(row, str(folder / name), f"cannot be read ({error})"))
    _check_encoding(folder, skipped, len(images), encoding)
    table = pa.table({"file_name": pa.array(kept, pa.string()), "text": pa.array(texts, pa.list_(pa.string()))})
    return _folder_rows(folder, table, skipped)


def _decoded(data: bytes, encoding: str | None) -> str:
    by_mark = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return data.decode(encoding or by_mark)


def _check_encoding(folder: Path, skipped: Sequence[SkippedRow], total: int, encoding: str | None) -> None:
    """Refuse a folder in which many captions are not UTF-8: its other captions are those without accents."""
    bad = [row for row in skipped if row.reason.startswith("cannot be read: not")]
    if len(bad) >= _MANY and len(bad) * _MANY_SHARE >= total:
        raise DataError(
            f"{folder.absolute()}: {len(bad)} of {total} caption files are not {encoding or 'UTF-8'}, the first is "
            f"{bad[0].source}; name their encoding behind the folder (?encoding=cp1252), or convert them: "
            f"iconv -f CP1252 -t UTF-8"
        )


def _read_classes(folder: Path, images: list[str], captions: dict[str, str]) -> RawRows:
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
