"""Data sets of the Hugging Face Hub, through `datasets`: memory-mapped, or streamed; images kept encoded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmcl.data.images.parquet_files import HubFiles
from mmcl.data.sources.hub.dataset_rows import rows_of_dataset
from mmcl.data.sources.hub.hub_parquet import find_parquet
from mmcl.data.sources.hub.streaming import read_streamed
from mmcl.data.sources.rows import RawRows
from mmcl.errors import DataError

_TIMEOUT_SECONDS = 10


class HubDataset:
    """A data set on the Hub: ``owner/name`` or ``owner/name@revision``.

    Args:
        reference: the id.
        columns: the user's column names; ``image`` matters here.
        config: which of the data set's configurations; None where it has one.
        stream_bytes: read it in pieces and download nothing whole (see ``hub.streaming``), and keep so many
            bytes of them in each process; None: download it.
    """

    def __init__(
        self,
        reference: str,
        *,
        columns: Mapping[str, str],
        config: str | None = None,
        stream_bytes: int | None = None,
    ) -> None:
        self._id, _, revision = reference.partition("@")
        self._reference, self._columns = reference, columns
        self._arguments = {"path": self._id, "name": config, "revision": revision or None}
        self._stream_bytes = stream_bytes
        self._streamed: dict[str, HubFiles] = {}
        self._offline_copy: Mapping[str, Any] | None = None
        self._names: list[str] | None = None

    def splits(self) -> list[str]:
        """The splits' names.

        Raises:
            DataError: the Hub cannot be reached, has no such data set, or several configurations and none is named; or
                it is to be streamed and has no Parquet files.
        """
        if self._names is None:
            self._names = self._find_splits()
        return self._names

    def _find_splits(self) -> list[str]:
        import datasets
        from huggingface_hub import HfApi, constants

        if self._stream_bytes is not None and constants.HF_HUB_OFFLINE:
            raise DataError(
                f"{self._reference}: streaming reads from the Hub, and HF_HUB_OFFLINE is set; unset it, or leave "
                f"?streaming=true out to use a copy that was downloaded before"
            )
        try:
            if constants.HF_HUB_OFFLINE:
                self._offline_copy = datasets.load_dataset(**self._arguments)
                return list(self._offline_copy)
            # One request with a time limit: without a connection `datasets` retries for half a minute.
            info = HfApi().dataset_info(self._id, revision=self._arguments["revision"], timeout=_TIMEOUT_SECONDS)
            if self._stream_bytes is not None:
                self._streamed = find_parquet(**self._arguments, commit=info.sha)
                return list(self._streamed)
            arguments = {**self._arguments, "config_name": self._arguments["name"]}
            del arguments["name"]
            return datasets.get_dataset_split_names(**arguments)
        except DataError:
            raise
        except Exception as error:  # the HTTP client's, the Hub's and datasets' errors share no base
            raise DataError(_unreachable(self._reference, error)) from error

    def rows(self, split: str | None) -> RawRows:
        """The rows of a split.

        Raises:
            DataError: it cannot be downloaded or read, or has no column of images.
        """
        import datasets

        split = split or self.splits()[0]
        if self._stream_bytes is not None:
            return read_streamed(
                self._streamed[split],
                source=f"{self._reference}:{split}",
                columns=self._columns,
                max_bytes=self._stream_bytes,
                keep=True,
            )
        try:
            if self._offline_copy is not None:
                dataset = self._offline_copy[split]
            else:
                dataset = datasets.load_dataset(**self._arguments, split=split)
        except Exception as error:
            raise DataError(_unreachable(self._reference, error)) from error
        return rows_of_dataset(dataset, source=self._reference, columns=self._columns)


def _unreachable(reference: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, ValueError) and lines and lines[0].startswith("Config name is missing"):
        configs = re.findall(r"'([^']+)'", " ".join(lines[1:2]) or lines[0])
        return (
            f"{reference!r} has several configurations ({', '.join(configs) or 'see its page'}); name one, as in "
            f"{reference}?config={configs[0] if configs else 'NAME'}"
        )
    return (
        f"{reference!r} is no path here, and as a data set on the Hugging Face Hub it cannot be read ({reason}). "
        f"Check the spelling, the connection and, for private data, `hf auth login`; offline, give a folder, or set "
        f"HF_HUB_OFFLINE=1 to use a copy that was downloaded before"
    )
