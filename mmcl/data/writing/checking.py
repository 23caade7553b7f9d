"""Is what was written what was to be written? By checksums, and by reading it back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcl.data.dataset import SCHEMA, ImageTextDataset
from mmcl.data.images.encoded import encoded_image
from mmcl.data.writing.job import Job, Part, Record, Split
from mmcl.data.writing.joining import CHECKSUMS
from mmcl.data.writing.parts import file_digest
from mmcl.errors import DataError

Progress = Callable[[str, int, int], None]
_ROWS_AT_ONCE = 256
_SHOWN = 5


def check_written(job: Job, records: Sequence[tuple[Part, Record]], *, progress: Progress | None) -> None:
    """Open the output as any data set is opened, and compare it with the source, row by row.

    Captions and columns are compared with the source's, images with the digests of what was to be written.

    Raises:
        DataError: anything differs; names the split, row and column.
    """
    from mmcl.data.sources.loading import load

    total = sum(record.rows for _, record in records)
    done = 0
    for number, split in enumerate(job.splits):
        own = [(part, record) for part, record in records if part.split == number]
        kept = kept_rows(own)
        if not len(kept):
            continue
        written = load(job.out, split=split.name)
        where = f"{job.out}{'' if split.name is None else ':' + split.name}"
        if len(written) != len(kept):
            raise DataError(f"{where} is read back with {len(written)} rows, {len(kept)} were written")
        _check_columns(split, written, kept, job, where=where)
        for checked in _check_images(own, written, where=where):
            done += checked
            if progress is not None:
                progress("checking", done, total)


def kept_rows(records: Sequence[tuple[Part, Record]]) -> np.ndarray:
    """The rows of a split that were written, in order."""
    rows = [np.arange(part.start, part.stop) for part, _ in records]
    skipped = [row.row for _, record in records for row in record.skipped]
    return np.setdiff1d(np.concatenate([np.empty(0, np.int64), *rows]), np.array(skipped, np.int64), assume_unique=True)


def _check_columns(split: Split, written: ImageTextDataset, kept: np.ndarray, job: Job, *, where: str) -> None:
    for start in range(0, len(kept), _ROWS_AT_ONCE):
        rows = kept[start : start + _ROWS_AT_ONCE]
        for column in split.dataset.table.column_names:
            wanted = _wanted(split, column, rows, job)
            name = job.renamed.get(column, column)
            if name not in written.table.column_names:
                if any(value not in (None, [], "") for value in wanted):
                    raise DataError(f"{where} is read back without the column {name!r}")
                continue
            found = written.table[name].slice(start, len(rows)).to_pylist()
            for place, (value, other) in enumerate(zip(wanted, found)):
                if not _same(value, other, blank_is_null=column in SCHEMA):
                    raise DataError(
                        f"{where}, row {start + place}: {name!r} is read back as {_short(other)}, "
                        f"the source has {_short(value)}"
                    )


def _wanted(split: Split, column: str, rows: np.ndarray, job: Job) -> list[Any]:
    """The source's cells; as they were written where the format could not hold them as they are."""
    source = split.table[job.renamed.get(column, column)] if column in job.changed else split.dataset.table[column]
    return source.take(rows).to_pylist()


def _same(value: Any, other: Any, *, blank_is_null: bool) -> bool:
    """Whether a cell came back. To readers a missing list is an empty one, and a blank label or id none at all."""
    nothing = (None, [], "") if blank_is_null else (None, [])
    return value == other or (value in nothing and other in nothing) or repr(value) == repr(other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_images(records: Sequence[tuple[Part, Record]], written: ImageTextDataset, *, where: str) -> Iterator[int]:
    """Compare all images; yields 1 for each."""
    digests = (digest for _, record in records for digest in record.digests)
    for row, digest in enumerate(digests):
        found = hashlib.sha256(encoded_image(written.images, row)).hexdigest()
        if found != digest:
            raise DataError(f"{where}, row {row}: the image in {written.images.describe(row)} is not what was written")
        yield 1


def verify_folder(out: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Compare every file of a written data set with its checksum.

    Args:
        out: the folder that ``write_dataset`` wrote.
        progress: told what is checked, how many files of how many.

    Returns:
        ``files`` and ``bytes`` that were checked.

    Raises:
        DataError: there is no list of checksums, or files are missing or differ; names the first of them.
    """
    listed = _read_checksums(out)
    wrong, size = [], 0
    for done, (name, digest) in enumerate(listed.items(), start=1):
        path = out / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        else:
            size += path.stat().st_size
            if file_digest(path) != digest:
                wrong.append(f"{name} has changed")
        if progress is not None:
            progress("checking", done, len(listed))
    if wrong:
        shown = ", ".join(wrong[:_SHOWN]) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
        raise DataError(f"{out}: {len(wrong)} of {len(listed)} files are not as they were written: {shown}")
    return {"out": str(out), "files": len(listed), "bytes": size}


def _read_checksums(out: Path) -> dict[str, str]:
    path = out / CHECKSUMS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; only finished folders of mmcl data convert can be verified"
        ) from error
    listed = {}
    for number, line in enumerate(lines, start=1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != 64 or name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{path}:{number}: no line of sha256sum's: {line[:80]!r}")
        listed[name] = digest
    return listed
