"""Folders that `datasets` wrote: ``save_to_disk``, and the Arrow files of its caches; memory-mapped."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

from mmcl.data.sources.hub.dataset_rows import rows_of_dataset
from mmcl.data.sources.rows import OneTable, RawRows, Source, SplitSources
from mmcl.errors import DataError

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
_SHARD = re.compile(r"(?P<stem>.+?)(-\d{5}-of-\d{5})?\.arrow")
_INTERMEDIATE = ("cache-", "tmp")  # files that `datasets` keeps for its own transformations


def is_saved_dataset(files: Collection[str]) -> bool:
    """Whether a folder with these files was written by ``save_to_disk``, or is a cache of `datasets`."""
    return _DICT in files or (_INFO in files and bool(_STATE in files or _arrow_files(files)))


def open_saved_dataset(
    folder: Path, files: Sequence[str], *, images: Path | None = None, columns: Mapping[str, str] | None = None
) -> Source:
    """The source that such a folder is; each split is opened when it is asked for.

    Args:
        folder: the folder.
        files: the names of the files in it.
        images: where relative image paths start, instead of the folder.
        columns: the user's column names; ``image`` and ``split`` matter here.

    Raises:
        DataError: a split's folder is missing, or a file that names the splits is damaged.
    """
    columns = columns or {}
    read = partial(_read_saved, images=images, columns=columns)
    if _DICT in files:
        names = _splits_of_dict(folder / _DICT)
        for name in names:
            if not (folder / name).is_dir():
                raise DataError(f"{folder / _DICT} names the split {name!r}, and there is no folder {folder / name}")
        return SplitSources({name: partial(read, folder / name) for name in names})
    if _STATE in files:
        return OneTable(partial(read, folder), split_column=columns.get("split", "split"))
    by_split = _arrow_by_split(folder, files)
    read_files = partial(_read_arrow, images=images, columns=columns)
    if list(by_split) == [None]:
        return OneTable(partial(read_files, by_split[None]), split_column=columns.get("split", "split"))
    return SplitSources({str(split): partial(read_files, paths) for split, paths in by_split.items()})


def _splits_of_dict(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_bytes())["splits"]
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return names
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path}: damaged; wanted an object with the list 'splits', as save_to_disk writes it")


def _read_saved(folder: Path, *, images: Path | None, columns: Mapping[str, str]) -> RawRows:
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except Exception as error:  # a missing or cut file ends in errors of arrow, json and the system
        raise DataError(f"{folder}: written by save_to_disk, but it cannot be read ({_first_line(error)})") from error
    return rows_of_dataset(dataset, source=str(folder), root=images or folder, columns=columns)


def _read_arrow(paths: Sequence[Path], *, images: Path | None, columns: Mapping[str, str]) -> RawRows:
    from datasets import Dataset, concatenate_datasets

    parts = []
    for path in paths:
        try:
            parts.append(Dataset.from_file(str(path)))
        except Exception as error:
            raise DataError(f"{path}: no Arrow file of datasets, or a damaged one ({_first_line(error)})") from error
    dataset = parts[0] if len(parts) == 1 else concatenate_datasets(parts)
    source = str(paths[0] if len(paths) == 1 else paths[0].parent)
    return rows_of_dataset(dataset, source=source, root=images or paths[0].parent, columns=columns)


def _arrow_files(files: Collection[str]) -> list[str]:
    return sorted(name for name in files if name.endswith(".arrow") and not name.startswith(_INTERMEDIATE))


def _arrow_by_split(folder: Path, files: Sequence[str]) -> dict[str | None, list[Path]]:
    """The Arrow files of each split that dataset_info.json names; all under None where it names none."""
    try:
        splits = json.loads((folder / _INFO).read_bytes()).get("splits") or {}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{folder / _INFO}: damaged ({error})") from error
    found: dict[str | None, list[Path]] = {}
    for name in _arrow_files(files):
        match = _SHARD.fullmatch(name)
        stem = match["stem"] if match else name
        split = next((split for split in splits if stem == split or stem.endswith(f"-{split}")), None)
        found.setdefault(split, []).append(folder / name)
    if None in found and len(found) > 1:
        raise DataError(f"{found[None][0]}: belongs to none of the splits {', '.join(splits)} in {folder / _INFO}")
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
