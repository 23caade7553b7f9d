"""The store of a table's image column, whatever the column holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.images.arrow_bytes import BytesImages
from mmcl.data.images.files import FileImages
from mmcl.errors import DataError


def images_from_column(column: pa.ChunkedArray, *, root: str | Path, source: str) -> tuple[Any, pa.ChunkedArray]:
    """The store of an image column, and which of its rows name an image at all.

    Args:
        column: paths (string), encoded images (binary), or structs of ``bytes`` and ``path`` as ``datasets`` writes.
        root: the folder that relative paths start from.
        source: the file that the column comes from, for messages.

    Returns:
        An ``ImageStore`` of n images, and (n,) bool: false where the cell is null or blank.

    Raises:
        DataError: the column holds something else.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        given = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), False)
        return FileImages(root, pc.fill_null(column, "")), given
    if pa.types.is_null(kind):
        return FileImages(root, pa.array([""] * len(column))), pa.chunked_array([pa.array([False] * len(column))])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return BytesImages(column, source=source, root=root), pc.is_valid(column)
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        data = pc.struct_field(column, "bytes")
        paths = pc.struct_field(column, "path") if kind.get_field_index("path") >= 0 else None
        paths = None if paths is None or pa.types.is_null(paths.type) else paths
        given = pc.is_valid(data) if paths is None else pc.or_(pc.is_valid(data), pc.is_valid(paths))
        return BytesImages(data, source=source, paths=paths, root=root), given
    raise DataError(
        f"{source}: the image column holds {kind}; wanted file names, encoded bytes, or structs of bytes and path"
    )
