"""`mmcl data convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.cli.evaluate.options import Columns, Images, renamed_columns

if TYPE_CHECKING:
    from rich.console import Console

    from mmcl.data.dataset import ImageTextDataset


def convert(
    data: Annotated[
        str | None,
        typer.Argument(metavar="DATA", help="Folder, table, shards, Hub id or shapes; DATA:SPLIT picks a split."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="OUT", help="Folder to write.")] = None,
    format: Annotated[str | None, typer.Option("--format", help="webdataset, parquet or folder.")] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Make the shorter side N pixels where it is longer.")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, metavar="MB", help="About how large a shard is.")] = 256,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: this one alone.")] = 0,
    split: Annotated[list[str] | None, typer.Option("--split", help="A split to convert; all by default.")] = None,
    verify: Annotated[
        Path | None, typer.Option("--verify", metavar="OUT", help="Check the files of a finished folder instead.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the counts as JSON.")] = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Write data as WebDataset shards, Parquet files with the images inside, or a folder.

    Every row, caption and column is kept, and every encoded image byte by byte; the result is read back and compared.
    Rows that cannot be read are listed in OUT/skipped.jsonl, all files in OUT/checksums.sha256. Broken off, the same
    command goes on.

    Example: mmcl data convert path/to/emoji -o emoji-shards --format webdataset --shard-size 100 --workers 4

    Example: mmcl data convert --verify emoji-shards
    """
    check_json_file(json_file)
    console = make_console()
    if verify is not None:
        write_json(json_file, _verify(verify, [data, out, format], console))
        return
    from mmcl.data.writing import write_dataset
    from mmcl.errors import ConfigError

    for name, value in (("DATA", data), ("--out OUT", out), ("--format webdataset, parquet or folder", format)):
        if value is None:
            raise ConfigError(f"{name} is missing; see mmcl data convert --help")
    with watch_work(console) as progress:
        splits = _open(data, split, columns, images, progress)
        counts = write_dataset(
            splits, out, format=format, resize=resize, shard_mb=shard_size, workers=workers, progress=progress
        )
    _print_counts(counts, console)
    write_json(json_file, counts)


def _open(
    data: str, wanted: list[str] | None, columns: list[str] | None, images: Path | None, progress: Any
) -> dict[str | None, ImageTextDataset]:
    """The splits that are meant, read from data that are opened once.

    Raises:
        DataError: all splits are meant, and some rows are in none.
        ConfigError: DATA names a split, and so does ``--split``.
    """
    from mmcl.data import parse_reference
    from mmcl.data.sources.loading import load_split, open_data
    from mmcl.data.splits.names import canonical_split, canonical_splits
    from mmcl.errors import ConfigError, DataError

    base, named = parse_reference(data)
    if named is not None and wanted:
        raise ConfigError(f"{data} names a split, and --split another; leave one of them out")
    opened = open_data(base, columns=renamed_columns(columns), images=images, progress=progress)
    names = [named] if named is not None else wanted or canonical_splits(opened.splits())
    if not names:
        return {None: load_split(opened, base, None)}
    splits = {canonical_split(name): load_split(opened, base, name) for name in names}
    if named is None and not wanted and all("split" in dataset.table.column_names for dataset in splits.values()):
        left = len(opened.whole()) - sum(map(len, splits.values()))
        if left:
            chosen = " ".join(f"--split {name}" for name in names)
            raise DataError(f"{left:,} rows of {data} are in no split; give them one, or leave them out by {chosen}")
    return splits


def _verify(out: Path, others: list[Any], console: Console) -> dict[str, Any]:
    from mmcl.data.writing.checking import verify_folder
    from mmcl.errors import ConfigError

    if any(value is not None for value in others):
        raise ConfigError("--verify OUT stands alone: it checks a folder that is there, and converts nothing")
    with watch_work(console) as progress:
        found = verify_folder(out, progress=progress)
    console.print(f"{out}: {found['files']:,} files, {found['bytes'] / 1e6:,.1f} MB, all as they were written")
    return found


def _print_counts(counts: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(f"{counts['out']}: {counts['format']}, read back and compared", markup=False, soft_wrap=True)
    table = Table()
    for name in ("split", "rows", "skipped"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for name, rows in counts["rows"].items():
        table.add_row(Text(name), f"{rows:,}", f"{counts['skipped'][name]:,}")
    console.print(table)
    console.print(
        f"{counts['files']:,} files, {counts['bytes'] / 1e6:,.1f} MB; checksums in {counts['checksums']}",
        soft_wrap=True,
    )
    for kind, number in counts["re_encoded"].items():
        console.print(f"{kind}: {number:,} images made smaller and encoded again; the others are copies")
    for name, new in counts["renamed_columns"].items():
        console.print(f"the column {name} is called {new} now: the format needs its name", markup=False, soft_wrap=True)
    for name, what in counts["changed_columns"].items():
        console.print(f"the column {name} holds {what}", markup=False, soft_wrap=True)
    if "skipped_list" in counts:
        left_out = sum(counts["skipped"].values()) + counts["dropped"]
        console.print(f"{left_out:,} rows could not be used, with reasons in {counts['skipped_list']}", soft_wrap=True)
