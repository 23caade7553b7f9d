"""COCO's caption annotations ``captions_train2017.json``, and other .json files that are one object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmcl.batch import SkippedRow
from mmcl.data.sources.known.image_folders import first_with
from mmcl.data.sources.known.karpathy import rows_of_karpathy
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

ANNOTATION_NAME = re.compile(r"captions_(?P<folder>(?P<split>train|val|test)[\w-]*)\.json")


def read_annotations(path: Path, *, images: Path | None = None) -> RawRows:
    """Read a .json file that is one object: COCO captions, or a split file of Karpathy's.

    Args:
        path: the file.
        images: the folder that its image names start from; by default looked for beside the file.

    Raises:
        OSError: the file cannot be opened.
        DataError: it is neither, or the first image is in none of the folders that were looked in.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: neither a table nor a Karpathy split file nor COCO captions: malformed JSON ({error})"
        ) from error
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if isinstance(annotations, list) and any(isinstance(item, dict) and "caption" in item for item in annotations):
        return _rows_of_coco(path, content, images)
    return rows_of_karpathy(path, content, images=images)


def _rows_of_coco(path: Path, content: Mapping[str, Any], images: Path | None) -> RawRows:
    """An image a row in the file's order, with all its captions in the order of their annotations."""
    if not isinstance(content.get("images"), list):
        raise DataError(f"{path}: it has captions in 'annotations' and no list 'images'; wanted COCO captions")
    names, captions, places, skipped = {}, {}, [], []
    for number, entry in enumerate(content["images"]):
        key = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("file_name") if isinstance(entry, dict) else None
        problem = None
        if key is None or not isinstance(name, str) or not name:
            problem = "no id or no file_name"
        elif key in names:
            problem = f"the id {key} of another image"
        if problem:
            skipped.append(SkippedRow(number, f"{path}:image {number}", problem))
            continue
        names[key], captions[key] = name, []
        places.append(number)
    for number, entry in enumerate(content["annotations"]):
        key = entry.get("image_id") if isinstance(entry, dict) else None
        caption = entry.get("caption") if isinstance(entry, dict) else None
        if key not in names or not isinstance(caption, str):
            reason = "no caption" if key in names else f"the caption of an image that is not listed ({key})"
            skipped.append(SkippedRow(number, f"{path}:annotation {number}", reason))
            continue
        captions[key].append(caption)
    table = pa.table(
        {
            "id": pa.array([str(key) for key in names], pa.string()),
            "file_name": pa.array(list(names.values()), pa.string()),
            "text": pa.array(list(captions.values()), pa.list_(pa.string())),
        }
    )
    root = _image_root(path, images, next(iter(names.values()), None))
    return RawRows(
        table, str(path), lambda rows: [f"{path}:image {places[row]}" for row in rows], skipped=skipped, root=root
    )


def _image_root(path: Path, images: Path | None, first: str | None) -> Path:
    match = ANNOTATION_NAME.fullmatch(path.name)
    own = match["folder"] if match else "images"
    if images is not None:
        folders = [images, images / own]
    else:
        around = (path.parent, path.absolute().parent.parent)
        folders = [folder for base in around for folder in (base / own, base, base / "images" / own, base / "images")]
    found = folders[0] if first is None else first_with(folders, first)
    if found is None:
        looked = ", ".join(str(folder) for folder in folders)
        raise DataError(f"{path}: its first image {first} is not in {looked}; name the images' folder with data.images")
    return found
