"""Data sets of the Hugging Face Hub, through `datasets`: memory-mapped, images kept encoded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmcl.data.images.dataset_rows import DatasetImages
from mmcl.data.sources.columns import ALIASES
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

_TIMEOUT_SECONDS = 10


class HubDataset:
    """A data set on the Hub: ``owner/name``, ``owner/name@revision``, ``owner/name?config=NAME``.

    Args:
        reference: the id.
        columns: the user's column names; ``image`` matters here.
    """

    def __init__(self, reference: str, *, columns: Mapping[str, str]) -> None:
        name, _, config = reference.partition("?config=")
        self._id, _, revision = name.partition("@")
        self._reference, self._columns = reference, columns
        self._arguments = {"path": self._id, "name": config or None, "revision": revision or None}
        self._offline_copy: Mapping[str, Any] | None = None
        self._names: list[str] | None = None

    def splits(self) -> list[str]:
        """The splits' names.

        Raises:
            DataError: the Hub cannot be reached, or has no such data set.
        """
        if self._names is None:
            self._names = self._find_splits()
        return self._names

    def _find_splits(self) -> list[str]:
        import datasets
        from huggingface_hub import HfApi, constants

        try:
            if constants.HF_HUB_OFFLINE:
                self._offline_copy = datasets.load_dataset(**self._arguments)
                return list(self._offline_copy)
            # One request with a time limit: without a connection `datasets` retries for half a minute.
            HfApi().dataset_info(self._id, revision=self._arguments["revision"], timeout=_TIMEOUT_SECONDS)
            arguments = {**self._arguments, "config_name": self._arguments["name"]}
            del arguments["name"]
            return datasets.get_dataset_split_names(**arguments)
        except Exception as error:  # the HTTP client's, the Hub's and datasets' errors share no base
            raise DataError(_unreachable(self._reference, error)) from error

    def rows(self, split: str | None) -> RawRows:
        """The rows of a split.

        Raises:
            DataError: it cannot be downloaded, or has no column of images.
        """
        import datasets

        try:
            if self._offline_copy is not None:
                dataset = self._offline_copy[split or self.splits()[0]]
            else:
                dataset = datasets.load_dataset(**self._arguments, split=split or self.splits()[0])
        except Exception as error:
            raise DataError(_unreachable(self._reference, error)) from error
        return rows_from_dataset(dataset, source=self._reference, columns=self._columns)


def rows_from_dataset(
    dataset: Any, *, source: str, root: Path = Path(), columns: Mapping[str, str] | None = None
) -> RawRows:
    """The rows of a ``datasets.Dataset``: its columns as a table, its images kept encoded; class labels by name.

    Args:
        dataset: the data set.
        source: its name, for messages.
        root: where paths inside it start.
        columns: the user's column names; ``image`` names the image column.

    Raises:
        DataError: no column of images, or several and none named.
    """
    from datasets import ClassLabel, Image

    name = _image_column(dataset.features, (columns or {}).get("image"), source)
    if not isinstance(dataset.features[name], Image) or dataset.features[name].decode:
        dataset = dataset.cast_column(name, Image(decode=False))
    others = [key for key, feature in dataset.features.items() if key != name and not _is_heavy(feature)]
    table = dataset.select_columns(others).with_format("arrow")[:] if others else pa.table({})
    for index, key in enumerate(table.column_names):
        feature = dataset.features[key]
        if isinstance(feature, ClassLabel):
            values = table[key].to_pylist()
            labels = [None if value is None or value < 0 else feature.int2str(value) for value in values]
            table = table.set_column(index, key, pa.array(labels, pa.string()))
    images = DatasetImages(dataset.select_columns([name]), name, source=source, root=root)
    return RawRows(table, source, lambda rows: [f"{source}:row {row}" for row in rows], images=images, root=root)


def _image_column(features: Mapping[str, Any], wanted: str | None, source: str) -> str:
    from datasets import Image

    images = [
        name
        for name, feature in features.items()
        if isinstance(feature, Image)
        or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
        or getattr(feature, "dtype", "") in {"binary", "large_binary"}
    ]
    if wanted in features:
        return wanted
    named = [name for name in ALIASES["image"] if name in images]
    if named or len(images) == 1:
        return (named or images)[0]
    problem = f"has no column {wanted!r}" if wanted else "has several columns of images" if images else "has no images"
    raise DataError(
        f"{source} {problem}; it has {', '.join(f'{name} ({_kind(kind)})' for name, kind in features.items())}; "
        f"name the image column with data.columns.image"
    )


def _kind(feature: Any) -> str:
    return getattr(feature, "dtype", None) or type(feature).__name__


def _is_heavy(feature: Any) -> bool:
    """Media and raw bytes would be copied into memory with the table."""
    return type(feature).__name__ in {"Image", "Audio", "Video", "Pdf"} or getattr(feature, "dtype", "") == "binary"


def _unreachable(reference: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return (
        f"{reference!r} is no path here, and as a data set on the Hugging Face Hub it cannot be read ({reason}). "
        f"Check the spelling, the connection and, for private data, `hf auth login`; offline, give a folder, or set "
        f"HF_HUB_OFFLINE=1 to use a copy that was downloaded before"
    )
