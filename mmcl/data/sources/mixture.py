"""A ``.yaml`` file of several data sets, opened as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mmcl.config.mixture import MixtureFile, MixtureSource, load_mixture
from mmcl.data.dataset import ImageTextDataset
from mmcl.data.mixing import SOURCE_COLUMN, Mixture
from mmcl.data.sources.built_in import is_built_in
from mmcl.data.sources.joining import join_datasets
from mmcl.data.sources.opened import OpenedData
from mmcl.data.sources.tables.tables import TABLE_SUFFIXES
from mmcl.data.splits.names import canonical_split, canonical_splits, choose_split
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

_MIXTURES = (".yaml", ".yml")
_TABLES = (*TABLE_SUFFIXES, ".json", ".tar")
_FILE_OPTION = "splits="


@dataclass(frozen=True)
class Part:
    """One source of a mixture.

    Attributes:
        name: what its rows are called.
        opened: its data.
        split: the only split of it that takes part; None: all.
    """

    name: str
    opened: OpenedData
    split: str | None

    def splits(self) -> dict[str | None, str | None]:
        """Canonical name -> the source's own spelling; {None: None} where it has none."""
        names = self.opened.splits()
        if self.split is not None:
            names = [choose_split(names, self.split, data=self.opened.name)]
        if not names:
            return {None: None}
        return {name: choose_split(names, name, data=self.opened.name) for name in canonical_splits(names)}


class OpenedMixture:
    """Several data sets as one.

    Its splits are those of all its sources together; a source without one of them takes no part in it, and one
    without any is part of ``train``; both are logged. Each row has a column ``source``, and its id, and its group
    unless groups are shared, begin with the source's name. A source without ``domain`` has its name there.

    Args:
        name: the reference, for messages.
        parts: the sources.
        file: the mixture as its file says it.
    """

    def __init__(self, name: str, parts: Sequence[Part], file: MixtureFile) -> None:
        self.name, self._parts, self._file = name, list(parts), file
        self._splits: list[dict[str | None, str | None]] | None = None

    def _splits_of_parts(self) -> list[dict[str | None, str | None]]:
        if self._splits is None:
            self._splits = [part.splits() for part in self._parts]
            if any(None not in splits for splits in self._splits):
                for number, splits in enumerate(self._splits):
                    if None in splits:
                        log.warning(
                            "%s: %s has no splits while others have: all its rows are taken for train; write "
                            "?train=0.9&validation=0.1 behind its path to share them out",
                            self.name,
                            self._parts[number].name,
                        )
                        self._splits[number] = {"train": None}
        return self._splits

    def splits(self) -> list[str]:
        """The splits of all sources together."""
        found = {name for splits in self._splits_of_parts() for name in splits if name is not None}
        return canonical_splits(list(found))

    def dataset(self, split: str | None) -> ImageTextDataset:
        """The rows of a split, of all sources that have it.

        Raises:
            DataError: a source cannot be read.
        """
        wanted = split and canonical_split(split)
        taking = [
            (part, splits[wanted]) for part, splits in zip(self._parts, self._splits_of_parts()) if wanted in splits
        ]
        absent = [part.name for part, splits in zip(self._parts, self._splits_of_parts()) if wanted not in splits]
        if absent:
            log.info("%s:%s: without rows: %s", self.name, wanted, ", ".join(absent))
        name = self.name if wanted is None else f"{self.name}:{wanted}"
        return self._join([(part, part.opened.dataset(own)) for part, own in taking], name)

    def whole(self) -> ImageTextDataset:
        """The rows of all splits of all sources."""
        datasets = []
        for part in self._parts:
            if part.split is None:
                datasets.append((part, part.opened.whole()))
            else:
                datasets.append((part, part.opened.dataset(next(iter(part.splits().values())))))
        return self._join(datasets, self.name)

    def _join(self, datasets: list[tuple[Part, ImageTextDataset]], name: str) -> ImageTextDataset:
        shared = self._file.shared_groups
        marked = [_mark(dataset, part.name, shared_groups=shared) for part, dataset in datasets]
        joined = join_datasets(marked, names=[part.name for part, _ in datasets], name=name)
        weights = {part.name: source.weight for part, source in zip(self._parts, self._file.sources)}
        given = None if None in weights.values() else weights
        mixing = self._file.mixing or ("stratified" if given else None)
        joined.mixture = Mixture(given, mixing)
        counts = ", ".join(f"{part.name} {len(dataset)}" for part, dataset in datasets)
        log.info("%s: rows of each source: %s", name, counts)
        return joined


def open_mixture(
    name: str,
    path: str,
    *,
    columns: Mapping[str, str],
    images: str | Path | None,
    progress: Callable[[str, int, int], None] | None = None,
) -> OpenedMixture:
    """Open a mixture and all its sources; their paths are relative to its file.

    Args:
        name: the reference, for messages.
        path: the file, such as::

                sources:
                  - {path: products.csv, weight: 3, columns: {text: title}, images: img}
                  - {path: "shapes?train=4000", weight: 1, name: scenes}
        columns, images: none: each source has its own.
        progress: as ``load`` takes it.

    Raises:
        ConfigError: the file is no mixture, names another one or a file of vectors, or columns or images are given.
        DataError: a source is not there.
    """
    from mmcl.data.sources.loading import open_data, parse_reference

    place = Path(path).expanduser()
    if not place.is_file():
        raise DataError(f"there is no file {place.absolute()}; wanted a mixture's YAML file")
    given = [*(f"data.columns.{key}" for key in columns), *(["images"] if images is not None else [])]
    if given:
        raise ConfigError(f"{path} is a mixture, whose sources say their own columns and images; {given[0]} goes there")
    file = load_mixture(place)
    parts = []
    for source, part_name in zip(file.sources, _names(file.sources, str(place))):
        reference = parse_reference(_relative(source.path, place.parent, str(place)))
        root = source.images and str(place.parent / Path(source.images).expanduser())
        opened = open_data(reference.base, columns=source.renamed(), images=root, progress=progress)
        parts.append(Part(part_name, opened, reference.split))
    return OpenedMixture(name, parts, file)


def _relative(path: str, folder: Path, source: str) -> str:
    """A source's reference as seen from here: what is a path there, or in its options, starts in the mixture's folder.

    A Hub id stays one unless the folder holds such a path.
    """
    base, mark, rest = path.partition("?")
    if base.startswith("vectors:"):
        raise ConfigError(f"{source}: {path} has embeddings in place of images, and cannot be part of a mixture")
    head = base if mark or os.path.exists(folder / base) else base.rpartition(":")[0] or base
    if Path(head).suffix.lower() in _MIXTURES:
        raise ConfigError(f"{source}: {path} is a mixture itself; list its sources here instead")
    here = os.path.exists(folder / Path(head).expanduser())
    is_path = (
        here
        or head.startswith((".", "~"))
        or any(sign in head for sign in "{*")
        or Path(head).suffix.lower() in _TABLES
    )
    if not is_built_in(head) and (is_path or "/" not in head):
        base = str(folder / Path(base).expanduser())
    options = [
        _FILE_OPTION + str(folder / Path(option.removeprefix(_FILE_OPTION)).expanduser())
        if option.startswith(_FILE_OPTION)
        else option
        for option in rest.split("&")
    ]
    return base + mark + "&".join(options)


def _names(sources: Sequence[MixtureSource], file: str) -> list[str]:
    """The sources' names: their own, or from the path; -2, -3 ... behind those that would repeat."""
    taken = {source.name for source in sources if source.name is not None}
    names = []
    for source in sources:
        if source.name is not None:
            names.append(source.name)
            continue
        base = source.path.partition("?")[0].rstrip("/")
        stem = "".join(sign if sign.isalnum() or sign in "_.-" else "_" for sign in Path(base).stem) or "source"
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def _mark(dataset: ImageTextDataset, source: str, *, shared_groups: bool) -> ImageTextDataset:
    """The rows of one source, told from those of others."""
    table = dataset.table
    if SOURCE_COLUMN in table.column_names:
        own = f"{source}.{SOURCE_COLUMN}"
        log.warning(
            "%s: its column %r is kept as %r; %r names its source now", dataset.name, SOURCE_COLUMN, own, "source"
        )
        table = table.rename_columns([own if name == SOURCE_COLUMN else name for name in table.column_names])
    for column in ("id",) if shared_groups else ("id", "group"):
        if column in table.column_names:
            named = pc.binary_join_element_wise(source, table[column].cast(pa.string()), "/")
            table = table.set_column(table.column_names.index(column), column, named)
    names = pa.array([source] * len(dataset), pa.string())
    if "domain" not in table.column_names:
        table = table.append_column("domain", names)
        log.info("%s: it has no domain; its rows have %r there", dataset.name, source)
    table = table.append_column(SOURCE_COLUMN, names)
    return ImageTextDataset(dataset.images, table, name=dataset.name, skipped=dataset.skipped)
