"""WebDataset shards, read map-style: an index of where each member stands makes any order and exact resume possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from braceexpand import UnbalancedBracesError, braceexpand

from mmcl.batch import SkippedRow
from mmcl.data.images.tars import TarImages
from mmcl.data.sources.cells import as_lists, as_text
from mmcl.data.sources.columns import ALIASES
from mmcl.data.sources.loose_images import class_text
from mmcl.data.sources.rows import OneTable, RawRows, Source, SplitSources
from mmcl.data.sources.shards.shard_index import index_shards
from mmcl.data.sources.tables.json_lines import table_from_lines
from mmcl.data.splits.names import canonical_split, split_prefix
from mmcl.errors import DataError

Progress = Callable[[str, int, int], None]
CLASS_NAMES = "classnames.txt"  # beside the shards or one folder up: the name of label 0, 1, 2 ... a line


def expand_shards(pattern: Path) -> list[Path]:
    """The files of ``shards-{000..099}.tar``, ``{a,b}.tar``, ``shards-*.tar``, ``{train,val}/*.tar`` or one ``.tar``.

    Braces are those of bash, nested or not; stars may stand in folders too.

    Raises:
        DataError: one of them is missing, none matches, braces are not closed, or they are compressed.
    """
    if not pattern.name.endswith(".tar"):
        raise DataError(f"{pattern}: only uncompressed .tar shards can be read at any offset; unpack it first")
    if pattern.is_file():
        return [pattern]
    try:
        names = list(braceexpand(str(pattern), escape=False))
    except UnbalancedBracesError as error:
        raise DataError(f"{pattern}: its braces are not closed; write shards-{{000..099}}.tar") from error
    paths: list[Path] = []
    for name in names:
        paths += _glob(Path(name)) if "*" in name else [Path(name)]
    missing = [path for path in paths if not path.is_file()]
    if missing or not paths:
        raise DataError(
            f"{pattern.absolute()}: {len(missing)} of {len(paths)} shards are missing"
            + (f", the first is {missing[0].absolute()}" if missing else "; no file matches")
        )
    return paths


def _glob(path: Path) -> list[Path]:
    parts = path.parts
    first = next(number for number, part in enumerate(parts) if "*" in part)
    return sorted(Path(*parts[:first]).glob("/".join(parts[first:])))


def open_shards(paths: Sequence[Path], *, progress: Progress | None = None) -> Source:
    """Shards as a source. Where every name begins with a split (``train-000.tar``, ``val_3.tar``) those are its splits.

    Args:
        paths: tar files, at least one.
        progress: told how many shards are indexed.
    """
    splits = [split_prefix(path.name) for path in paths]
    if None in splits:
        return OneTable(partial(read_shards, list(paths), progress=progress))
    readers: dict[str, Callable[[], RawRows]] = {}
    for split in dict.fromkeys(canonical_split(split) for split in splits if split):
        own = [path for path, its in zip(paths, splits) if its and canonical_split(its) == split]
        readers[split] = partial(read_shards, own, progress=progress)
    return SplitSources(readers)


def read_shards(paths: Sequence[Path], *, progress: Progress | None = None) -> RawRows:
    """The samples of some shards, in the order in which WebDataset reads them.

    A key is a member's path up to the first dot of its name, as in WebDataset. ``KEY.jpg`` (or another image) goes with

    - ``KEY.txt`` (``.text``, ``.caption``): one caption, however many lines;
    - ``KEY.json``: columns. A list of captions there (``text``, ``texts``, ``caption`` or ``captions``) goes before the
      text file, a single one counts where there is no text file;
    - ``KEY.cls``: the label. Where no sample has a caption, class names stand for them as for a folder of classes;
      numbers are named by a ``classnames.txt`` beside the shards or one folder up.

    Nothing is unpacked, links are never followed. What cannot be used is listed: samples without an image, whose text
    or JSON is broken, whose member is a link or leads out of the archive, stands twice, or was cut off.

    Args:
        paths: tar files, at least one.
        progress: told how many shards are indexed, where any has to be.

    Raises:
        DataError: a file is no tar archive, or compressed; or no sample has a caption.
    """
    names = [str(path.absolute()) for path in paths]
    indexes = index_shards(names, progress=progress)
    table = pa.concat_tables([index.replace_schema_metadata() for index in indexes]).combine_chunks()
    shard = np.repeat(np.arange(len(names), dtype=np.int32), [len(index) for index in indexes])
    usable = pc.is_null(table["problem"]).to_numpy(zero_copy_only=False)

    def locate(rows: Sequence[int]) -> list[str]:
        return [f"{names[shard[row]]}:{table['key'][row].as_py()}" for row in rows]

    bad = np.flatnonzero(~usable).tolist()
    skipped = [SkippedRow(row, place, table["problem"][row].as_py()) for row, place in zip(bad, locate(bad))]
    numbers = np.flatnonzero(usable)
    kept, shard_of = table.take(pa.array(numbers)).combine_chunks(), shard[numbers]
    offsets, sizes = (kept[name].to_numpy() for name in ("offset", "size"))
    images = TarImages(names, shard_of, offsets, sizes, _only_chunk(kept["member"]))
    source = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more shards"
    return RawRows(_columns(kept, paths[0].absolute(), source), source, locate, numbers, skipped, images)


def _columns(index: pa.Table, shard: Path, source: str) -> pa.Table:
    columns: dict[str, Any] = {"id": index["key"]}
    if index["json"].null_count < len(index):
        values = table_from_lines(pc.fill_null(index["json"], "{}").to_pylist())
        columns |= {name: values[name] for name in values.column_names}
    if index["label"].null_count < len(index):
        label = index["label"]
        columns["label"] = pc.coalesce(label, as_text(columns["label"])) if "label" in columns else label
    own = next((name for name in ALIASES["text"] if name in columns and _holds_texts(columns[name].type)), None)
    if index["text"].null_count < len(index):
        columns["text"] = index["text"] if own is None else _captions(index["text"], columns[own], f"{source}: {own}")
    elif own is None and "label" in columns and len(index):
        columns |= _named_classes(as_text(columns["label"]), shard, source)
    return pa.table(columns)


def _holds_texts(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or (pa.types.is_list(kind) and pa.types.is_string(kind.value_type))


def _captions(text: pa.ChunkedArray, other: pa.ChunkedArray, what: str) -> pa.Array:
    """Lists of captions: those of the JSON where they are several, else the text file's, else the one of the JSON."""
    of_json, of_file = as_lists(other, what=what), as_lists(text, what=what)
    lengths = pc.list_value_length(of_json)
    if pc.all(pc.less_equal(lengths, 1)).as_py() and not pc.any(pc.is_null(text)).as_py():
        return of_file
    from_json = pc.or_(pc.greater(lengths, 1), pc.equal(pc.list_value_length(of_file), 0))
    return pc.if_else(from_json, of_json, of_file)


def _named_classes(labels: pa.ChunkedArray, shard: Path, source: str) -> dict[str, Any]:
    """Labels by name and the same as captions, for shards that have no others."""
    if not pc.all(pc.match_substring_regex(labels, r"^\d+$")).as_py():
        return {"label": labels, "text": class_text(labels)}
    files = [folder / CLASS_NAMES for folder in (shard.parent, shard.parent.parent)]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DataError(
            f"{source}: the samples have labels, which are numbers, and no captions; put a {CLASS_NAMES} with a name a "
            f"line, the first for label 0, into {shard.parent}"
        )
    names = file.read_text(encoding="utf-8-sig").splitlines()
    highest = max(int(label) for label in pc.unique(labels).to_pylist() if label is not None)
    if highest >= len(names):
        raise DataError(f"{file} has {len(names)} lines, and {source} the label {highest}; a name a line is wanted")
    named = pa.array(names, pa.string()).take(labels.cast(pa.int64()).combine_chunks())
    return {"label": named, "text": class_text(named)}


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
