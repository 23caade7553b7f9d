"""What is to be written: the splits, their names and columns, and the parts they are written in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mmcl.batch import SkippedRow
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.decoding import decode_image
from mmcl.data.images.encoded import EncodedImages, encoded_image
from mmcl.data.sources.shards.shard_index import IMAGE_EXTENSIONS
from mmcl.data.writing.columns import keeps_in_json, prepare_columns, same_types
from mmcl.data.writing.names import extension, image_format, unique_stems
from mmcl.data.writing.resizing import shrink
from mmcl.errors import DataError

Format = Literal["webdataset", "parquet", "folder"]
FORMATS: tuple[Format, ...] = ("webdataset", "parquet", "folder")
IMAGE_COLUMNS = {"webdataset": None, "parquet": "image", "folder": "file_name"}
ROWS_AT_ONCE = 64  # rows whose columns are Python objects at the same time
FOLDER_ROWS = 1000  # rows of a folder that are one part of the work
# Bytes a row takes beside image and columns: headers and padding of three tar members; half a block of the disk.
_OVERHEAD = {"webdataset": 3 * (512 + 256), "parquet": 64, "folder": 2048}
_SAMPLED = 256
_KNOWN_SPLITS = ("train", "validation", "test")
_HASH_ROWS = 4096


@dataclass(frozen=True)
class Split:
    """One split as it is written: its data set, the columns under their new names, and a name for each row."""

    name: str | None
    dataset: ImageTextDataset
    table: pa.Table
    stems: list[str]


class Part(NamedTuple):
    """Consecutive rows of a split that are written by one process at a time, whole or not at all.

    Attributes:
        number: its place among all parts.
        split: the split's place among the splits.
        start, stop: the rows.
        place, of: its place among the split's parts, and how many these are.
    """

    number: int
    split: int
    start: int
    stop: int
    place: int
    of: int


@dataclass
class Record:
    """What became of a part; kept as JSON beside the data until all is written.

    Attributes:
        rows: rows written.
        files: path below the output folder -> SHA-256, for those that stay.
        skipped: rows that could not be read, by their number in the split.
        digests: SHA-256 of each image as it was written, in order.
        re_encoded: format as it was -> images that were not copied byte by byte.
    """

    rows: int = 0
    files: dict[str, str] = field(default_factory=dict)
    skipped: list[SkippedRow] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    re_encoded: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The record that ``to_json`` made the text of."""
        values = json.loads(text)
        return cls(**{**values, "skipped": [SkippedRow(**row) for row in values["skipped"]]})

    def to_json(self) -> str:
        """The record as JSON, the same for the same part whoever wrote it."""
        return json.dumps(asdict(self), ensure_ascii=False)


class StoredRow(NamedTuple):
    """A row about to be written: a name without folder and extension, the image and its extension, the columns."""

    row: int
    stem: str
    image: bytes
    extension: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """All that a process needs to write any part.

    Attributes:
        splits: what is written, in order.
        out: the folder.
        format: how.
        resize: shorter side of the images, or None.
        one_table: whether rows of all splits stand in one table with a column ``split``, since a reader would not
            find a split of such a name again by the names of files.
        json_metadata: whether a folder's table is JSON lines, or Parquet since JSON could not hold it.
        renamed, changed: as ``Columns`` has them.
    """

    splits: tuple[Split, ...]
    out: Path
    format: Format
    resize: int | None
    one_table: bool
    json_metadata: bool
    renamed: dict[str, str]
    changed: dict[str, str]

    def stored_rows(self, part: Part, record: Record) -> Iterator[StoredRow]:
        """The rows of a part, read one by one; those that cannot be read go to the record."""
        split = self.splits[part.split]
        for start in range(part.start, part.stop, ROWS_AT_ONCE):
            stop = min(part.stop, start + ROWS_AT_ONCE)
            for row, values in enumerate(split.table.slice(start, stop - start).to_pylist(), start=start):
                try:
                    data, kind = self._image(split.dataset, row, record)
                except DataError as error:
                    place = split.dataset.images.describe(row)
                    record.skipped.append(SkippedRow(row, place, _reason(error, place)))
                    continue
                record.rows += 1
                record.digests.append(hashlib.sha256(data).hexdigest())
                yield StoredRow(row, split.stems[row], data, extension(kind), values)

    def _image(self, dataset: ImageTextDataset, row: int, record: Record) -> tuple[bytes, str]:
        source = dataset.images.describe(row)
        data = encoded_image(dataset.images, row)
        kind = image_format(data, source=source)
        smaller = data if self.resize is None else shrink(data, self.resize, source=source)
        if self.format == "webdataset" and extension(kind) not in IMAGE_EXTENSIONS:
            smaller = _as_png(smaller, source=source)  # in a shard, an image is known by its extension
        if smaller is data:
            if isinstance(dataset.images, EncodedImages):
                decode_image(data, source=source)  # what is written is what mmcl can read
        else:
            record.re_encoded[kind] = record.re_encoded.get(kind, 0) + 1
            kind = image_format(smaller, source=source)
        return smaller, kind


def _as_png(data: bytes, *, source: str) -> bytes:
    from torchvision.io import encode_png

    return encode_png(decode_image(data, source=source)).numpy().tobytes()


def _reason(error: DataError, place: str) -> str:
    return str(error).removeprefix(f"{place}: ")


def make_job(splits: Mapping[str | None, ImageTextDataset], out: Path, *, format: Format, resize: int | None) -> Job:
    """Settle names, columns and layout; nothing is read but the tables.

    Raises:
        DataError: columns that cannot be written (see ``prepare_columns`` and ``same_types``).
    """
    one_table = any(name is not None and name not in _KNOWN_SPLITS for name in splits)
    tables = {name: dataset.table for name, dataset in splits.items()}
    in_json = format == "webdataset" or (format == "folder" and keeps_in_json(tables))
    columns = prepare_columns(
        tables, image_column=IMAGE_COLUMNS[format], split_column=one_table, as_json=format == "webdataset"
    )
    written = columns.tables if in_json else same_types(columns.tables)
    made = []
    for name, dataset in splits.items():
        ids = dataset.column("id") if "id" in dataset.table.column_names else [None] * len(dataset)
        made.append(Split(name, dataset, written[name], unique_stems(ids)))
    return Job(tuple(made), out, format, resize, one_table, in_json, columns.renamed, columns.changed)


def make_parts(job: Job, rows_per_part: int) -> list[Part]:
    """The parts of all splits, in order."""
    parts: list[Part] = []
    for number, split in enumerate(job.splits):
        starts = range(0, len(split.dataset), rows_per_part)
        for place, start in enumerate(starts):
            stop = min(len(split.dataset), start + rows_per_part)
            parts.append(Part(len(parts), number, start, stop, place, len(starts)))
    return parts


def mean_row_bytes(job: Job) -> float:
    """About what a row takes on disk: the mean of some rows spread evenly over all splits.

    Raises:
        DataError: none of them can be read.
    """
    total = sum(len(split.dataset) for split in job.splits)
    starts = np.cumsum([0] + [len(split.dataset) for split in job.splits])
    sizes, skipped = [], []
    for place in np.unique(np.linspace(0, total - 1, min(total, _SAMPLED)).astype(np.int64)):
        owner = int(np.searchsorted(starts, place, side="right") - 1)
        row, record = int(place - starts[owner]), Record()
        for stored in job.stored_rows(Part(0, owner, row, row + 1, 0, 1), record):
            sizes.append(len(stored.image) + len(json.dumps(stored.values, default=str)) + _OVERHEAD[job.format])
        skipped += record.skipped
    if not sizes:
        raise DataError(f"no image can be read; the first: {skipped[0].source}: {skipped[0].reason}")
    return float(np.mean(sizes))


def fingerprint(splits: Mapping[str | None, ImageTextDataset]) -> str:
    """A hash of all that is read: images, every column of every row, and the splits' names."""
    digest = hashlib.sha256()
    for name, dataset in splits.items():
        digest.update(f"{name}\x1f{dataset.images.fingerprint()}\x1e".encode())
        for start in range(0, len(dataset), _HASH_ROWS):
            rows = dataset.table.slice(start, _HASH_ROWS).to_pylist()
            digest.update(json.dumps(rows, default=repr).encode())
    return digest.hexdigest()
