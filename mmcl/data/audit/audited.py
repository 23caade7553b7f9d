"""`Audited`: all splits of a data set as the checks see them, rows numbered through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from mmcl.data.audit.embedded import Embedded, nearest_images
from mmcl.data.audit.limits import Limits
from mmcl.data.audit.twins import Twins, find_twins
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mining.offline_mining import Embed
from mmcl.data.scan.images import scan_images
from mmcl.data.vectors import VectorImages

ProgressCallback = Callable[[str, int, int], None]

# What a leaked row is dropped from: never from the split that judges.
_RANKS = {None: 0, "train": 0, "validation": 2, "test": 3}
_OTHER_RANK = 1


@dataclass(frozen=True)
class Captions:
    """Every caption of every row.

    Attributes:
        texts: (o,) as they are, in chunks.
        rows: (o,) int64, whose they are.
        codes: (o,) int32, equal where captions differ in case, blanks and a final full stop at most.
    """

    texts: pa.ChunkedArray
    rows: np.ndarray
    codes: np.ndarray

    def parts(self) -> Iterator[tuple[np.ndarray, pa.Array]]:
        """(rows, texts), a bounded number at a time."""
        place = 0
        for chunk in self.texts.chunks:
            for start in range(0, len(chunk), CAPTIONS_AT_A_TIME):
                part = chunk.slice(start, CAPTIONS_AT_A_TIME)
                yield self.rows[place : place + len(part)], part
                place += len(part)


CAPTIONS_AT_A_TIME = 65536


@dataclass(frozen=True)
class Leak:
    """How much of one split is known from another.

    Attributes:
        held_out, seen: the splits.
        by: "image", "near image", "caption" or "group".
        rows: (k,) the rows of ``held_out``, numbered in it.
        share: k of its rows.
    """

    held_out: str | None
    seen: str | None
    by: str
    rows: np.ndarray
    share: float


@dataclass
class Audited:
    """All splits, rows numbered through in their order.

    Attributes:
        splits: split -> rows.
        limits: the thresholds.
        embed: a model, or None.
        workers: processes that decode images beside this one.
        progress: told what is done, how much of it, and of how much.
        leaks: what the checks of leakage found, for the report.
        not_run: check -> why it could not be made.
    """

    splits: Mapping[str | None, ImageTextDataset]
    limits: Limits = field(default_factory=Limits)
    embed: Embed | None = None
    workers: int = 0
    progress: ProgressCallback | None = None
    leaks: list[Leak] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = list(self.splits)
        self.datasets = list(self.splits.values())
        self.starts = np.concatenate([[0], np.cumsum([len(dataset) for dataset in self.datasets])]).astype(np.int64)
        self.ranks = np.array([_RANKS.get(name, _OTHER_RANK) for name in self.names], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def tell(self, what: str, done: int, total: int) -> None:
        """Report progress where somebody listens."""
        if self.progress is not None:
            self.progress(what, done, total)

    # -- rows ------------------------------------------------------------------------------------------------------

    def split_of(self, rows: np.ndarray) -> np.ndarray:
        """Which split rows are in, as the place in ``names``."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def local(self, row: int) -> tuple[ImageTextDataset, int]:
        """The split's rows, and the row's number in them."""
        split = int(self.split_of(np.int64(row)))
        return self.datasets[split], int(row - self.starts[split])

    def place(self, row: int) -> str:
        """The file, member or line of a row."""
        dataset, number = self.local(row)
        return dataset.images.describe(number)

    def read(self, row: int) -> Tensor:
        """The image of a row, uint8 (3, h, w). Raises DataError where it cannot be read."""
        dataset, number = self.local(row)
        return dataset.images.read(number)

    # -- columns ---------------------------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> pa.Table:
        """What the scan knows of every image; see ``scan_images``."""
        parts = [scan_images(data, workers=self.workers, progress=self.progress) for data in self.datasets]
        return pa.concat_tables(parts)

    def numbers(self, column: str, *, missing: float) -> np.ndarray:
        """A number column of the facts, (n,)."""
        values = pc.fill_null(self.facts[column], missing)
        return values.to_numpy()

    def coded(self, column: str) -> np.ndarray:
        """(n,) int64: equal where a string column is, through all splits; -1 where it is missing or null."""
        parts = []
        for dataset in self.datasets:
            if column in dataset.table.column_names:
                parts += dataset.table[column].cast(pa.large_string()).chunks
            else:
                parts.append(pa.nulls(len(dataset), pa.large_string()))
        return _codes(pa.chunked_array(parts, pa.large_string())).astype(np.int64)

    @cached_property
    def groups(self) -> np.ndarray:
        """(n,) int64: the column ``group``, numbered; -1 where a row has none."""
        return self.coded("group")

    @cached_property
    def kin(self) -> np.ndarray:
        """(n,) int64: equal for rows that may share a caption: those of one group; without groups of one label."""
        groups, labels = self.groups, self.coded("label")
        first_label = groups.max(initial=-1) + 1
        first_row = first_label + labels.max(initial=-1) + 1
        alone = np.where(labels >= 0, first_label + labels, first_row + np.arange(len(self)))
        return np.where(groups >= 0, groups, alone)

    @cached_property
    def embedded(self) -> Embedded:
        """What the model makes of images and captions."""
        return Embedded(self)

    @cached_property
    def twins(self) -> Twins:
        """Rows with the same image; where there is a model, images with close embeddings are compared too."""
        return find_twins(self, None if self.embed is None else self.nearest[0])

    @cached_property
    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of rows whose images the model embeds close to one another, and their cosines."""
        return nearest_images(self, self.limits.neighbours, self.limits.neighbour_cosine)

    @cached_property
    def has_pixels(self) -> bool:
        """Whether there are images to read: vectors have none."""
        return not any(isinstance(dataset.images, VectorImages) for dataset in self.datasets)

    @cached_property
    def captions(self) -> Captions:
        """Every caption of every row."""
        texts, rows = [], []
        for start, dataset in zip(self.starts, self.datasets):
            for chunk in dataset.table["texts"].chunks:
                texts.append(chunk.flatten())
                lengths = pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False)
                rows.append(start + np.repeat(np.arange(len(chunk)), lengths))
                start += len(chunk)
        kind = texts[0].type if texts else pa.string()
        column = pa.chunked_array([text.cast(kind) for text in texts], kind)
        owners = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        plain = Captions(column, owners, np.zeros(0, dtype=np.int32))
        return Captions(column, owners, _codes(pa.chunked_array(map(_simplified, plain.parts()), pa.large_string())))


def _simplified(part: tuple[np.ndarray, pa.Array]) -> pa.Array:
    """Captions without case, repeated blanks and a final full stop."""
    texts = pc.utf8_lower(part[1].cast(pa.large_string()))
    texts = pc.replace_substring_regex(texts, pattern=r"\s+", replacement=" ")
    return pc.utf8_rtrim(pc.utf8_trim_whitespace(texts), characters=" .")


def _codes(strings: pa.ChunkedArray) -> np.ndarray:
    """(n,) int32, equal where the strings are; -1 for null."""
    encoded = strings.dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries()
    parts = [pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks]
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)
