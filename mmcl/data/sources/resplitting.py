"""Splits that a reference gives to data: by shares (``?train=0.8&test=0.2``) or by a file (``?splits=FILE``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.sources.columns import ALIASES
from mmcl.data.sources.opened import OpenedData
from mmcl.data.sources.options import whole_number, yes_or_no
from mmcl.data.sources.tables.tables import read_table
from mmcl.data.splits.names import canonical_split, canonical_splits
from mmcl.data.splits.splitting import assign_splits, check_shares
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

_SHARES = ("train", "validation", "test")
_BY_SHARES = (*_SHARES, "by", "seed", "captions")
SPLIT_OPTIONS = (*_BY_SHARES, "splits", "resplit")


class Splitting(Protocol):
    """One way to share out rows."""

    def names(self) -> list[str]:
        """The splits there will be."""
        ...

    def assign(self, dataset: ImageTextDataset) -> np.ndarray:
        """(n,) the split of each row, "" for none."""
        ...


@dataclass(frozen=True)
class ByShares:
    """Splits by a hash of what belongs together; see ``assign_splits``."""

    shares: Mapping[str, float]
    by: str | None
    seed: int
    captions: bool

    def names(self) -> list[str]:
        """The splits that have a share."""
        return list(self.shares)

    def assign(self, dataset: ImageTextDataset) -> np.ndarray:
        """(n,) the split of each row, "" for none.

        Raises:
            DataError: a split gets no row.
        """
        return assign_splits(dataset, self.shares, self.by, self.seed, self.captions)


class ByFile:
    """Splits by a table of ids (or image files) and splits.

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file with a column ``split`` and one named ``id`` or as image columns
            are (``file_name``, ``path`` ...).

    Raises:
        DataError: there is no such file, a column is missing, or an id stands in two splits.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise DataError(f"splits={path}: there is no file {self.path.absolute()}")
        raw = read_table(self.path)
        table = raw.table
        if raw.skipped:
            first = raw.skipped[0]
            raise DataError(f"{first.source}: {first.reason}; every line of a file of splits must be readable")
        id_columns = [name for name in ("id", *ALIASES["image"]) if name in table.column_names]
        if "split" not in table.column_names or not id_columns:
            raise DataError(
                f"{self.path}: a file of splits has a column split, and id or file_name; it has "
                f"{', '.join(table.column_names)}"
            )
        self.split_of: dict[str, str] = {}
        ids, splits = (table[name].cast(pa.string()).to_pylist() for name in (id_columns[0], "split"))
        for identifier, split in zip(ids, splits):
            if identifier is None or not (split or "").strip():
                continue
            name = canonical_split(split)
            if self.split_of.setdefault(identifier, name) != name:
                raise DataError(f"{self.path}: {identifier!r} stands in {self.split_of[identifier]} and in {name}")
        if not self.split_of:
            raise DataError(f"{self.path}: no row has both an id and a split")

    def names(self) -> list[str]:
        """The splits that the file names."""
        return canonical_splits(list(set(self.split_of.values())))

    def assign(self, dataset: ImageTextDataset) -> np.ndarray:
        """(n,) the split of each row, "" for none.

        Raises:
            DataError: the data have no ids, or none of them is in the file.
        """
        if not dataset.has("id"):
            raise DataError(f"{dataset.name} has no ids, so no file can say which split a row is in; name them: id")
        ids = dataset.column("id")
        splits = np.array([self.split_of.get(identifier, "") for identifier in ids])
        found = int((splits != "").sum())
        if not found:
            raise DataError(
                f"{self.path}: none of its {len(self.split_of)} ids is one of {dataset.name}; it has such as "
                f"{next(iter(self.split_of))!r}, the data such as {ids[0]!r}"
            )
        if found < len(ids):
            log.warning("%s: %d of %d rows are in no split of %s", dataset.name, len(ids) - found, len(ids), self.path)
        unknown = len(self.split_of.keys() - set(ids))
        if unknown:
            log.warning("%s: %d of its ids are none of %s", self.path, unknown, dataset.name)
        return splits


class ResplitData:
    """Data whose rows a reference has shared out; they are read once, however many splits are asked for.

    Args:
        opened: the data.
        splitting: how they are shared out.
        again: whether data that have splits of their own may be shared out anew.
    """

    def __init__(self, opened: OpenedData, splitting: Splitting, *, again: bool) -> None:
        self.name, self._opened, self._splitting, self._again = opened.name, opened, splitting, again
        self._whole: ImageTextDataset | None = None
        self._splits: np.ndarray | None = None

    def splits(self) -> list[str]:
        """The splits there will be.

        Raises:
            ConfigError: the data have splits of their own, and ``resplit=true`` is not said.
        """
        own = canonical_splits(self._opened.splits())
        if own and not self._again:
            raise ConfigError(
                f"{self.name} has splits already ({', '.join(own)}), which its options would undo; leave them out, or "
                f"add &resplit=true to share out the rows of all splits anew"
            )
        return self._splitting.names()

    def dataset(self, split: str | None) -> ImageTextDataset:
        """The rows of a split, or all of them.

        Raises:
            DataError: a row cannot be told its split, or no row can be used.
        """
        if self._whole is None:
            self._whole = self._opened.whole()
            self._splits = self._splitting.assign(self._whole)
        if split is None:
            return self._whole
        rows = np.flatnonzero(self._splits == canonical_split(split))
        if not len(rows):
            raise DataError(f"{self.name}: no row is in the split {split!r}")
        chosen = self._whole.select(rows, name=f"{self.name}:{canonical_split(split)}")
        if "split" in chosen.table.column_names:
            place = chosen.table.column_names.index("split")
            values = pa.array([canonical_split(split)] * len(rows), pa.string())
            chosen.table = chosen.table.set_column(place, "split", values)
        return chosen

    def whole(self) -> ImageTextDataset:
        """All rows, those of no split too."""
        return self.dataset(None)


def resplit(opened: OpenedData, options: Mapping[str, str], *, columns: Mapping[str, str]) -> ResplitData:
    """Data with the splits that options of ``SPLIT_OPTIONS`` give them.

    Args:
        opened: the data.
        options: at least one.
        columns: the user's column names, which ``by`` may use too.

    Raises:
        ConfigError: a value that is none, shares and a file at once, or neither.
        DataError: the file of splits cannot be used.
    """
    name = opened.name
    again = yes_or_no(name, options, "resplit", default=False)
    by_shares = [key for key in _BY_SHARES if key in options]
    if "splits" in options:
        if by_shares:
            raise ConfigError(f"{name}: splits=FILE says each row's split; {by_shares[0]} goes without it")
        return ResplitData(opened, ByFile(options["splits"]), again=again)
    shares = {key: _share(name, key, options[key]) for key in _SHARES if key in options}
    if not shares:
        raise ConfigError(f"{name}: {next(iter(options))} goes with shares, such as train=0.8&validation=0.1&test=0.1")
    check_shares(shares, what=name)
    by = options.get("by")
    own_names = {theirs: ours for ours, theirs in columns.items() if ours not in ("image", "text", "split")}
    seed, captions = whole_number(name, options, "seed", 0), yes_or_no(name, options, "captions", default=True)
    return ResplitData(opened, ByShares(shares, own_names.get(by, by), seed, captions), again=again)


def _share(base: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"{base}: {key}={text!r} is no share; want a number such as 0.8") from error
