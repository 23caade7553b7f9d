"""Splits made by a hash of what belongs together, so that nothing stands on both sides."""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmcl.data.dataset import ImageTextDataset
from mmcl.data.images.joined import image_files
from mmcl.data.splits.names import canonical_split, canonical_splits
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

LARGEST_UNIT = 0.2  # share of the rows that one unit may have before it is spoken of
_ROWS_OF_A_CLASS = 10  # rows a caption from which captions are taken for the names of classes
_SHOWN = 80  # letters of a caption in a message


@dataclass(frozen=True)
class Tie:
    """What ties rows together: each entry says that a row has a value.

    Attributes:
        name: what it is called in messages, such as caption.
        rows: (o,) int64.
        codes: (o,) int64, which value.
        values: the values.
    """

    name: str
    rows: np.ndarray
    codes: np.ndarray
    values: pa.Array


@dataclass(frozen=True)
class Units:
    """What stays together in a split.

    Attributes:
        of_row: (n,) int64 in [0, number of units).
        ties: what made them, the most telling first.
    """

    of_row: np.ndarray
    ties: tuple[Tie, ...]

    def sizes(self) -> np.ndarray:
        """The rows of each unit."""
        return np.bincount(self.of_row)


def find_units(dataset: ImageTextDataset, *, by: str | None = None, captions: bool = True) -> Units:
    """Rows that are tied together, directly or through other rows, by one value or more.

    Rows are tied by the same value of the column ``by``, the same ``group``, the same image file and, with
    ``captions``, by any caption that both have, letter for letter. A missing value ties nothing.

    Args:
        dataset: any.
        by: a further column whose values stay together.
        captions: whether equal captions tie.

    Raises:
        ConfigError: there is no column ``by``, or it holds lists.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    wanted = list(dict.fromkeys(name for name in (by, "group") if name is not None))
    ties = [_column_tie(dataset, name) for name in wanted if name == by or dataset.has(name)]
    files = image_files(dataset.images)
    if any(file is not None for file in files):
        ties.append(_tie("image file", np.arange(len(dataset)), pa.array(files, pa.large_string())))
    if captions:
        ties.append(caption_tie(dataset))
    number = len(dataset)
    starts = number + np.concatenate([[0], np.cumsum([len(tie.values) for tie in ties])]).astype(np.int64)
    rows = np.concatenate([tie.rows for tie in ties]) if ties else np.zeros(0, np.int64)
    values = [tie.codes + start for tie, start in zip(ties, starts)]
    nodes = np.concatenate(values) if ties else rows
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, nodes)), shape=(int(starts[-1]),) * 2)
    labels = connected_components(graph, directed=False)[1][:number]
    return Units(np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64), tuple(ties))


def _column_tie(dataset: ImageTextDataset, name: str) -> Tie:
    there = dataset.table.column_names
    if name not in there:
        near = difflib.get_close_matches(name, there, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{dataset.name} has no column {name!r} to split by; it has {', '.join(there)}{hint}")
    column = dataset.table[name]
    if pa.types.is_nested(column.type):
        raise ConfigError(f"{dataset.name}: column {name!r} holds {column.type}; a split by it needs one value a row")
    return _tie(name, np.arange(len(dataset)), column.cast(pa.large_string()))


def caption_tie(dataset: ImageTextDataset) -> Tie:
    """Which row has which caption."""
    column = dataset.table["texts"].combine_chunks()
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return _tie("caption", np.repeat(np.arange(len(dataset)), lengths), column.flatten())


def _tie(name: str, rows: np.ndarray, values: pa.Array | pa.ChunkedArray) -> Tie:
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    encoded = values.dictionary_encode()
    kept = encoded.indices.is_valid().to_numpy(zero_copy_only=False)
    codes = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return Tie(name, rows[kept].astype(np.int64), codes[kept], encoded.dictionary)


def assign_splits(
    dataset: ImageTextDataset,
    shares: Mapping[str, float],
    by: str | None = None,
    seed: int = 0,
    captions: bool = True,
) -> np.ndarray:
    """Share out the rows of a data set among splits, so that no group and no caption stands in two of them.

    Rows that ``find_units`` ties together go to one split. Which one is a hash of the seed and of the unit's key, held
    against the cumulated shares: it depends neither on the order of the rows, nor on other units, nor on the machine.
    The key is the first value of ``by`` in the unit in alphabetical order, else its first group, else its first
    caption (without ``captions``, the row's id); rows that are added change a unit's split only where they change that.
    So the shares are met in expectation, and the more exactly the more units there are.

    Args:
        dataset: any; its own splits do not count.
        shares: split -> share of the units, each above 0, together at most 1; what is left over is in no split.
        by: a column whose values stay together, beside the groups.
        seed: another seed, another choice.
        captions: whether rows of equal captions stay together.

    Returns:
        (n,) names of splits; "" for rows in no split.

    Raises:
        ConfigError: shares that are none, or no column ``by``.
        DataError: a split gets no row.

    Example:
        >>> from mmcl.data import load
        >>> dataset = load("shapes?train=200:train")
        >>> sorted(set(assign_splits(dataset, {"train": 0.8, "test": 0.2}).tolist()))
        ['test', 'train']
    """
    names = check_shares(shares, what=dataset.name)
    units = find_units(dataset, by=by, captions=captions)
    warn_of_large_units(dataset, units, hint="; &captions=false lets equal captions stand in several splits")
    draws = _draws(_unit_keys(dataset, units, by=by, captions=captions), seed)
    ends = np.cumsum([shares[name] for name in names])
    if math.isclose(ends[-1], 1, abs_tol=1e-9):
        ends[-1] = np.inf
    choice = np.array([*(canonical_split(name) for name in names), ""])
    splits = choice[np.searchsorted(ends, draws, side="right")][units.of_row]
    _check_filled(dataset, splits, names, shares, len(draws))
    return splits


def check_shares(shares: Mapping[str, float], *, what: str) -> list[str]:
    """The names of the splits in their order, train, validation and test first.

    Raises:
        ConfigError: no share, one that is not in (0, 1], two for one split, or more than 1 in all.
    """
    if not shares:
        raise ConfigError(f"{what}: no shares are given; write train=0.8&validation=0.1&test=0.1")
    for name, share in shares.items():
        if not (math.isfinite(share) and 0 < share <= 1):
            raise ConfigError(f"{what}: {name}={share:g} is no share; want a number above 0 and at most 1")
    names = canonical_splits(list(shares))
    spelt = {canonical_split(name): name for name in shares}
    if len(names) < len(shares):
        raise ConfigError(f"{what}: two of {', '.join(shares)} are the same split; give one share for it")
    if sum(shares.values()) > 1 + 1e-9:
        raise ConfigError(f"{what}: the shares add up to {sum(shares.values()):g}; want at most 1")
    return [spelt[name] for name in names]


def _unit_keys(dataset: ImageTextDataset, units: Units, *, by: str | None, captions: bool) -> list[str]:
    """What names each unit, whatever else is in the data."""
    number = int(units.of_row.max(initial=-1)) + 1
    keys: list[str | None] = [None] * number
    named = [tie for tie in units.ties if tie.name != "image file"]
    if not captions:
        named.append(_row_tie(dataset))
    for tie in named:
        order = np.argsort(pc.rank(tie.values, tiebreaker="first").to_numpy()) if len(tie.values) else np.zeros(0, int)
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        first = np.full(number, len(order), dtype=np.int64)
        np.minimum.at(first, units.of_row[tie.rows], rank[tie.codes])
        values = tie.values.to_pylist()
        for unit in np.flatnonzero(first < len(order)).tolist():
            if keys[unit] is None:
                keys[unit] = f"{tie.name}\x1f{values[order[first[unit]]]}"
    return [key or "" for key in keys]


def _row_tie(dataset: ImageTextDataset) -> Tie:
    """Each row by its id; where there is none by its captions, and by which of those that have them it is."""
    rows = np.arange(len(dataset))
    if dataset.has("id"):
        ids = dataset.table["id"].cast(pa.large_string())
        if not ids.null_count:
            return _tie("id", rows, ids)
    texts = pc.binary_join(dataset.table["texts"].combine_chunks(), "\x1f")
    codes = texts.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], codes[order])
    times = np.empty(len(codes), dtype=np.int64)
    times[order] = np.arange(len(codes)) - starts
    numbered = pc.binary_join_element_wise(texts, pa.array(times).cast(pa.string()), "\x1e")
    return _tie("row", rows, numbered)


def _draws(keys: list[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for each key, by SHA-256."""
    digests = (hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()[:8] for key in keys)
    whole = np.frombuffer(b"".join(digests), dtype=">u8")
    return (whole >> 11).astype(np.float64) * 2.0**-53


def captions_are_classes(dataset: ImageTextDataset) -> bool:
    """Whether captions are so few that they name classes, of which each has many images, and nothing else ties rows.

    Args:
        dataset: any; one with a group column says itself what belongs together.
    """
    tie = caption_tie(dataset)
    few = len(dataset) >= _ROWS_OF_A_CLASS * len(tie.values) > 0
    return few and not dataset.has("group") and len(np.unique(tie.rows)) == len(dataset)


def warn_of_large_units(dataset: ImageTextDataset, units: Units, *, hint: str = "") -> None:
    """Log each unit of more than ``LARGEST_UNIT`` of the rows, and the value that most of its rows have.

    Args:
        dataset: whose rows they are.
        units: of ``find_units``.
        hint: what to do where that value is a caption; with it, captions so few that they are classes are told too.
    """
    sizes = units.sizes()
    captions = next((len(tie.values) for tie in units.ties if tie.name == "caption"), len(dataset))
    if hint and len(dataset) >= _ROWS_OF_A_CLASS * captions > 0:
        log.warning(
            "%s: its %d rows have %d captions in all, so these are shared out, as classes are, and not the images%s",
            dataset.name,
            len(dataset),
            captions,
            hint,
        )
    for unit in np.flatnonzero(sizes > max(1, LARGEST_UNIT * len(dataset))).tolist():
        inside = units.of_row == unit
        counts = [(np.bincount(tie.codes[inside[tie.rows]], minlength=1), tie) for tie in units.ties]
        most, tie = max(counts, key=lambda pair: pair[0].max())
        value = str(tie.values[int(most.argmax())].as_py())
        log.warning(
            "%s: %d of %d rows (%.0f %%) hang together and go to one split; most rows of them, %d, have the %s %r%s",
            dataset.name,
            sizes[unit],
            len(dataset),
            100 * sizes[unit] / len(dataset),
            most.max(),
            tie.name,
            value if len(value) <= _SHOWN else value[:_SHOWN] + "...",
            hint if tie.name == "caption" else "",
        )


def _check_filled(
    dataset: ImageTextDataset, splits: np.ndarray, names: list[str], shares: Mapping[str, float], number: int
) -> None:
    """Say how many rows each split has, and refuse an empty one."""
    counts = {name: int((splits == canonical_split(name)).sum()) for name in names}
    for name, rows in counts.items():
        if not rows:
            raise DataError(
                f"{dataset.name}: no row falls into the split {name!r} (a share of {shares[name]:g} of {len(dataset)} "
                f"rows in {number} unit(s) that stay together); raise its share, take another seed, or leave it out"
            )
    unused = len(dataset) - sum(counts.values())
    shown = ", ".join(f"{name} {rows}" for name, rows in counts.items())
    log.info("%s: %d rows in %d units are split into %s", dataset.name, len(dataset), number, shown)
    if unused:
        log.warning("%s: %d of %d rows are in none of the splits %s", dataset.name, unused, len(dataset), shown)
