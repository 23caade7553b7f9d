"""Files of mined negatives: what `mmcl data mine` writes, and what a recipe's ``data.negatives`` joins to its rows."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmcl.data.dataset import ImageTextDataset
from mmcl.errors import ConfigError, DataError
from mmcl.logs import get_logger

log = get_logger(__name__)

LAYOUT = 1
_KEY = b"mmcl_mined"

COLUMNS = pa.schema(
    {
        "row": pa.int64(),
        "id": pa.string(),
        "negatives": pa.list_(pa.string()),
        "negative_scores": pa.list_(pa.float32()),
        "negative_rows": pa.list_(pa.int64()),
        "negative_row_scores": pa.list_(pa.float32()),
    }
)


def row_fingerprint(dataset: ImageTextDataset) -> str:
    """A short hash of the ids, captions and groups of all rows, in order.

    It does not know where the data lie: mined negatives still fit when a folder has moved.
    """
    digest = hashlib.sha256(dataset.group_ids().numpy().tobytes())
    if "id" in dataset.table.column_names:
        digest.update("\x1f".join(str(value) for value in dataset.column("id")).encode())
    for texts in dataset.column("texts"):
        digest.update("\x1f".join(texts).encode())
        digest.update(b"\x1e")
    return digest.hexdigest()[:16]


def check_mined_path(path: str | Path) -> Path:
    """Refuse a file of mined negatives that could not be written, before the work is done and not after it.

    Raises:
        ConfigError: it does not end in .parquet, or its folder is missing or not writable.
    """
    path = Path(path).expanduser()
    folder = path.absolute().parent
    if path.suffix != ".parquet" or path.is_dir():
        raise ConfigError(f"--out {path}: negatives are written as Parquet; name a file that ends in .parquet")
    if not folder.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {path}: its folder cannot be written (no permission)")
    return path


def write_mined(path: Path, table: pa.Table, about: dict[str, Any]) -> None:
    """Write a file of mined negatives; it appears whole or not at all.

    Args:
        path: ``.parquet``.
        table: with the columns of ``COLUMNS``, one row for each of the data set's.
        about: what is kept with it: ``data``, ``fingerprint``, ``rows``, ``model``, ``parameters``, ``counts``.

    Raises:
        DataError: it cannot be written.
    """
    told = json.dumps({"layout": LAYOUT, **about}, ensure_ascii=False).encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        pq.write_table(table.cast(COLUMNS).replace_schema_metadata({_KEY: told}), partial)
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def read_mined(path: str | Path) -> tuple[pa.Table, dict[str, Any]]:
    """A file of mined negatives and what is kept with it.

    Raises:
        DataError: there is no such file, it is damaged, or `mmcl data mine` did not write it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"there is no file of mined negatives {path.absolute()}; make it with: mmcl data mine")
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[_KEY])
    except KeyError as error:
        raise DataError(
            f"{path}: mmcl data mine did not write this file; a column of wrong captions of your own is named with "
            f"data.columns.negatives"
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as a file of mined negatives ({error})") from error
    missing = [name for name in COLUMNS.names if name not in table.column_names]
    if missing or about.get("layout") != LAYOUT:
        raise DataError(f"{path}: written by another version of mmcl (it lacks {missing or 'nothing'}); mine again")
    return table, about


def join_mined(dataset: ImageTextDataset, path: str | Path) -> ImageTextDataset:
    """The data set with mined negatives: ``negatives`` behind those of its own, and ``negative_rows``.

    Args:
        dataset: the rows that were mined, all of them and in the same order.
        path: what ``mmcl data mine`` wrote.

    Raises:
        DataError: the file was mined for other rows; or cannot be read.
    """
    mined, about = read_mined(path)
    wanted = row_fingerprint(dataset)
    if mined.num_rows != len(dataset) or about["fingerprint"] != wanted:
        raise DataError(
            f"{path} holds negatives for {mined.num_rows} rows of {about['data']} (fingerprint "
            f"{about['fingerprint']}); wanted {dataset.name} with {len(dataset)} rows (fingerprint {wanted}): rows, "
            f"captions, groups or their order differ; mine again: mmcl data mine {about['model']} {dataset.name} "
            f"-o {path}"
        )
    captions = mined["negatives"]
    if dataset.has("negatives"):
        captions = _appended(dataset.table["negatives"], captions)
    table = dataset.table
    for name, column in (("negatives", captions), ("negative_rows", mined["negative_rows"])):
        if name in table.column_names:
            table = table.drop_columns([name])
        table = table.append_column(name, column)
    found = {
        name: int(pc.sum(pc.list_value_length(mined[name])).as_py() or 0) for name in ("negatives", "negative_rows")
    }
    log.info("%s: %d captions and %d images mined by %s join", dataset.name, *found.values(), about["model"])
    return ImageTextDataset(dataset.images, table, name=dataset.name, skipped=dataset.skipped, mixture=dataset.mixture)


def _appended(own: pa.ChunkedArray, mined: pa.ChunkedArray) -> pa.Array:
    """Both lists of each row as one, own captions first, each caption once."""
    lists = ([*(first or ()), *then] for first, then in zip(own.to_pylist(), mined.to_pylist()))
    return pa.array([list(dict.fromkeys(captions)) for captions in lists], pa.list_(pa.string()))
