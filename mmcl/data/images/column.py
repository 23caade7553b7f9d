"""The store of a table's image column, whatever the column holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.images.base64_text import Base64Images, find_base64
from mmcl.data.images.files import FileImages
from mmcl.errors import DataError

NO_DOWNLOADS = (
    "mmcl does not download images: fetch them once with img2dataset (img2dataset --output_format webdataset) and give "
    "the folder of shards it writes"
)
_NONE_NAMED = "no image file named"
_URL = r"(?i)^\s*(https?|ftp|s3|gs)://"


def images_from_column(column: pa.ChunkedArray, *, root: str | Path, source: str) -> tuple[Any, pa.ChunkedArray]:
    """The store of an image column, and what is wrong with rows that name no image.

    Args:
        column: paths, or images as base64 text or data URIs (string); encoded images (binary); or structs of ``bytes``
            and ``path`` as ``datasets`` writes.
        root: the folder that relative paths start from.
        source: the file that the column comes from, for messages.

    Returns:
        An ``ImageStore`` of n images, and (n,) strings: null where the cell names an image, else why it names none
        (it is null, blank or the address of a web page among paths).

    Raises:
        DataError: the column holds something else, or addresses alone.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _from_strings(column, root, source)
    if pa.types.is_null(kind):
        nothing = pa.chunked_array([pa.array([False] * len(column), pa.bool_())])
        return FileImages(root, pa.array([""] * len(column), pa.string())), _reasons(nothing)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return BytesImages(column, source=source, root=root), _reasons(pc.is_valid(column))
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        data = pc.struct_field(column, "bytes")
        paths = pc.struct_field(column, "path") if kind.get_field_index("path") >= 0 else None
        paths = None if paths is None or pa.types.is_null(paths.type) else paths
        given = pc.is_valid(data) if paths is None else pc.or_(pc.is_valid(data), pc.is_valid(paths))
        return BytesImages(data, source=source, paths=paths, root=root), _reasons(given)
    raise DataError(
        f"{source}: the image column holds {kind}; wanted file names, encoded bytes, base64 text, or structs of bytes "
        f"and path"
    )


def _reasons(given: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(given, pa.scalar(None, pa.string()), _NONE_NAMED)


def _from_strings(column: pa.ChunkedArray, root: str | Path, source: str) -> tuple[Any, pa.ChunkedArray]:
    given = pc.fill_null(pc.match_substring_regex(column, r"\S"), False)
    reasons = _reasons(given)
    is_url = pc.fill_null(pc.match_substring_regex(column, _URL), False)
    urls = pc.sum(is_url).as_py() or 0
    if urls:
        if urls == pc.sum(given).as_py():
            first = column.filter(is_url)[0].as_py().strip()
            raise DataError(f"{source}: the image column holds addresses ({first[:100]}), not images; {NO_DOWNLOADS}")
        reasons = pc.if_else(is_url, "the address of an image, which mmcl does not download", reasons)
    is_base64 = find_base64(column, root=root)
    if np.any(is_base64):
        return Base64Images(column, is_base64, root=root, source=source), reasons
    return FileImages(root, pc.fill_null(column, "")), reasons
