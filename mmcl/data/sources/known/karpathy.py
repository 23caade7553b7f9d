"""Karpathy's split files ``dataset_flickr30k.json``, ``dataset_coco.json`` and their like."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmcl.batch import SkippedRow
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

_SPLITS = {"restval": "train", "val": "validation"}


def is_one_object(path: Path) -> bool:
    """Whether a .json file is an object (and not a list of objects, or one object a line)."""
    with open(path, "rb") as file:
        start = file.read(1 << 16).removeprefix(codecs.BOM_UTF8).lstrip()
    first_line = start.split(b"\n", 1)[0]
    if not start.startswith(b"{"):
        return False
    try:
        return not {"images", "annotations"}.isdisjoint(json.loads(first_line))
    except ValueError:
        return True


def rows_of_karpathy(path: Path, content: Any, *, images: Path | None = None) -> RawRows:
    """The rows of a split file: an image a row, with all its sentences; ``restval`` counts as ``train``.

    Args:
        path: the file.
        content: what it holds.
        images: the folder that its ``filepath/filename`` start from; by default the file's folder, or ``images`` in it.

    Raises:
        DataError: the file is no such file, or the first image is in none of these folders.
    """
    try:
        entries = content["images"]
        if entries and "sentences" not in entries[0]:
            raise KeyError("sentences")
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path}: neither a table nor a Karpathy split file (an object with images[].filename, images[].sentences[]"
            f".raw and images[].split) nor COCO captions (images[].file_name, annotations[].caption): "
            f"{type(error).__name__}: {error}"
        ) from error
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "file_name", "text", "split")}
    numbers, skipped = [], []
    for number, entry in enumerate(entries):
        if not entry.get("filename"):
            skipped.append(SkippedRow(number, f"{path}:image {number}", "no filename"))
            continue
        numbers.append(number)
        identifier = entry.get("cocoid", entry.get("imgid"))
        columns["id"].append(entry["filename"] if identifier is None else str(identifier))
        columns["file_name"].append("/".join(filter(None, (entry.get("filepath"), entry["filename"]))))
        columns["text"].append([sentence.get("raw") for sentence in entry.get("sentences") or ()])
        split = entry.get("split")
        columns["split"].append(_SPLITS.get(split, split))
    kinds = {"text": pa.list_(pa.string())}
    table = pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in columns.items()})
    root = _image_root(path, images, columns["file_name"])
    return RawRows(
        table, str(path), lambda rows: [f"{path}:image {numbers[row]}" for row in rows], skipped=skipped, root=root
    )


def _image_root(path: Path, images: Path | None, names: list[str]) -> Path:
    folders = [images] if images is not None else [path.parent, path.parent / "images"]
    for folder in folders:
        if not names or (folder / names[0]).is_file():
            return folder
    looked = " or ".join(str(folder.absolute()) for folder in folders)
    raise DataError(f"{path}: its first image {names[0]} is not in {looked}; name the images' folder with data.images")
