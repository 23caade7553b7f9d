"""Encoded images in the row groups of Parquet files, fetched when they are needed."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmcl.data.images.decoding import read_file
from mmcl.data.images.encoded import EncodedImages
from mmcl.data.images.parquet_files import ParquetFiles
from mmcl.errors import DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

BUFFER_BYTES = 1 << 30  # of fetched row groups that a process keeps


@dataclass(frozen=True)
class RowGroups:
    """Where the row groups of some files stand.

    Attributes:
        file: (g,) int64, the number of the file a group is in.
        number: (g,) int64, its number in that file.
        starts: (g + 1,) int64, the first row of each group, counted over all files; then the number of rows.
        num_bytes: (g,) int64, bytes of its images.
    """

    file: np.ndarray
    number: np.ndarray
    starts: np.ndarray
    num_bytes: np.ndarray

    def of_row(self, row: int | np.ndarray) -> Any:
        """The group that a row, or each of some rows, is in."""
        return np.searchsorted(self.starts, row, side="right") - 1


class RowGroupReader:
    """The image column of Parquet files, fetched a row group at a time; those used last are kept.

    Several threads may fetch different groups at once, two never the same. After a fork and in a pickled copy it opens
    its files anew. A group whose fetching fails is tried again a few times, then refused for a minute, so that its many
    rows do not each wait.

    Args:
        files: the files.
        groups: where their row groups stand.
        column: the image column: binary, or structs of ``bytes`` and ``path``.
        max_bytes: of groups kept, per process; the one in use is kept however large.

    Attributes:
        num_fetched: row groups that this process has fetched.
    """

    # Before each further try; the client of the Hub tries a few times itself.
    RETRY_SECONDS: ClassVar[tuple[float, ...]] = (0.5, 2.0)
    REFUSED_SECONDS: ClassVar[float] = 60.0
    MOST_FOOTERS: ClassVar[int] = 64
    SCATTERED_FETCHES: ClassVar[int] = 200  # after so many, it is told that too little of each was used
    SCATTERED_SHARE: ClassVar[float] = 0.1

    def __init__(self, files: ParquetFiles, groups: RowGroups, column: str, *, max_bytes: int = BUFFER_BYTES) -> None:
        self.files, self.groups, self.column, self.max_bytes = files, groups, column, max_bytes
        self._begin()

    def _begin(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[int, Future[pa.ChunkedArray]] = OrderedDict()
        self._footers: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self._refused: dict[int, tuple[float, str]] = {}
        self.num_fetched = self._num_served = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("files", "groups", "column", "max_bytes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._begin()

    def cell(self, row: int) -> Any:
        """The image cell of a row, counted over all files: bytes, a struct as a dictionary, or None.

        Raises:
            DataError: the row group cannot be fetched, or is damaged; without the row's place, which the caller knows.
        """
        if self._process != os.getpid():  # a forked worker: the lock and what was on its way are the parent's
            self._begin()
        group = int(self.groups.of_row(row))
        with self._lock:
            self._num_served += 1
            found = self._kept.get(group)
            if found is not None:
                self._kept.move_to_end(group)
            else:
                own = self._kept[group] = Future()
        if found is None:
            found = own
            self._fetch_into(own, group)
        return found.result()[row - int(self.groups.starts[group])].as_py()

    def finish(self, group: int) -> None:
        """Every row of a group has been used: it is the first to make room."""
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group, last=False)

    def _fetch_into(self, future: Future[pa.ChunkedArray], group: int) -> None:
        try:
            cells = self._fetch(group)
        except BaseException as error:
            with self._lock:
                self._kept.pop(group, None)
            future.set_exception(error)
            return
        with self._lock:
            self.num_fetched += 1
            future.set_result(cells)
            self._make_room()
            mean = self.groups.starts[-1] / max(1, len(self.groups.file))
            scattered = self._num_served < self.SCATTERED_SHARE * mean * self.num_fetched
        if self.num_fetched == self.SCATTERED_FETCHES and scattered:
            log.warning(
                "%d row groups were fetched for %d images: the rows are asked for in an order that scatters them over "
                "too many groups; batches.name=blocks reads each group about once an epoch",
                self.num_fetched,
                self._num_served,
            )

    def _make_room(self) -> None:
        done = [group for group, future in self._kept.items() if future.done()]  # oldest first
        total = sum(self._kept[group].result().nbytes for group in done)
        for group in done[:-1]:
            if total <= self.max_bytes:
                return
            total -= self._kept.pop(group).result().nbytes

    def _fetch(self, group: int) -> pa.ChunkedArray:
        until, reason = self._refused.get(group, (0.0, ""))
        if time.monotonic() < until:
            raise DataError(reason)
        for wait in (*self.RETRY_SECONDS, None):
            try:
                return self._read(group)
            except MemoryError:
                raise
            except pa.ArrowInvalid as error:
                reason = f"its row group is damaged ({error})"
                break
            except (FileNotFoundError, PermissionError) as error:
                reason = f"its row group cannot be read ({error.strerror or error})"
                break
            except Exception as error:  # the HTTP client's errors and OSError share no base
                reason = (
                    f"its row group cannot be read, tried {len(self.RETRY_SECONDS) + 1} times "
                    f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})"
                )
                if wait is not None:
                    log.info("row group %d of %s: %s; trying again", *self._place(group), error)
                    time.sleep(wait)
        self._refused[group] = (time.monotonic() + self.REFUSED_SECONDS, reason)
        raise DataError(reason)

    def _place(self, group: int) -> tuple[int, str]:
        return int(self.groups.number[group]), self.files.name(int(self.groups.file[group]))

    def _read(self, group: int) -> pa.ChunkedArray:
        number = int(self.groups.file[group])
        with self._lock:
            footer = self._footers.get(number)
        with self.files.open(number) as file:
            # The bytes and their paths lie beside each other: buffered before, they are one range and one request.
            parquet = pq.ParquetFile(file, metadata=footer, pre_buffer=True)
            cells = parquet.read_row_group(int(self.groups.number[group]), columns=[self.column], use_threads=False)
            with self._lock:
                self._footers[number] = parquet.metadata
                while len(self._footers) > self.MOST_FOOTERS:
                    self._footers.popitem(last=False)
        return cells[self.column]


class RowGroupImages(EncodedImages):
    """Encoded images in row groups: any row can be read, but rows of one group after another are read far quicker.

    Args:
        reader: fetches the groups; shared by the stores that ``select`` makes.
        source: the data set's name, for messages.
        root: where the paths of images that are no bytes start.
        rows: (n,) which rows make up the store, counted over all files; all by default.
    """

    reads_whole_blocks = True  # random batches would fetch a block for nearly every image

    def __init__(
        self, reader: RowGroupReader, *, source: str, root: str | Path = ".", rows: np.ndarray | None = None
    ) -> None:
        self.reader, self.source, self.root = reader, source, str(root)
        self.rows = np.arange(reader.groups.starts[-1], dtype=np.int64) if rows is None else rows
        self._unused: dict[int, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unused": {}}

    def _note_use(self, group: int) -> None:
        """Count down the rows of a group; after the last it may go, however lately it was used."""
        if group not in self._unused:
            self._unused[group] = int(self._rows_of[group])
        self._unused[group] -= 1
        if self._unused[group] <= 0:
            del self._unused[group]
            self.reader.finish(group)

    @cached_property
    def _rows_of(self) -> np.ndarray:
        return np.bincount(self.blocks(), minlength=len(self.reader.groups.file))

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, row: int) -> bytes:
        """The bytes of image ``row``, or of the file it names. Raises DataError when they cannot be had."""
        place = int(self.rows[row])
        try:
            cell = self.reader.cell(place)
            self._note_use(int(self.reader.groups.of_row(place)))
        except DataError as error:
            raise DataError(f"{self.describe(row)}: {error}") from error
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if data is not None:
            return data
        if not path:
            raise DataError(f"{self.describe(row)}: the row has no image")
        return read_file(os.path.join(self.root, path))

    def describe(self, row: int) -> str:
        """The file and the row in it."""
        groups, place = self.reader.groups, int(self.rows[row])
        file = int(groups.file[groups.of_row(place)])
        first = groups.starts[np.searchsorted(groups.file, file)]
        return f"{self.reader.files.name(file)}:row {place - int(first)}"

    def select(self, rows: np.ndarray) -> RowGroupImages:
        """A store of these rows alone, in this order; fetched groups are shared."""
        chosen = self.rows[np.asarray(rows, dtype=np.int64)]
        return RowGroupImages(self.reader, source=self.source, root=self.root, rows=chosen)

    def blocks(self) -> np.ndarray:
        """(n,) int64: the row group each image is in."""
        return self.reader.groups.of_row(self.rows)

    def blocks_in_memory(self) -> int:
        """How many row groups, be they the largest, a process can keep at once; at least one."""
        largest = int(self.reader.groups.num_bytes.max(initial=1))
        return max(1, self.reader.max_bytes // max(1, largest))

    def fingerprint(self) -> str:
        """A hash of what the files are (paths, sizes and times; or the commit) and of the rows."""
        return hashlib.sha256(self.reader.files.identity().encode() + self.rows.tobytes()).hexdigest()
