"""`mmcl data split`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, write_json
from mmcl.cli.evaluate.options import Columns, Data, Images, Json, renamed_columns

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from mmcl.data.dataset import ImageTextDataset

_DEFAULT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}

Share = Annotated[float | None, typer.Option(min=0, max=1, help="Share of it; with no share given 0.8, 0.1, 0.1.")]


def split(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Write .csv, .tsv, .jsonl or .parquet.")],
    train: Share = None,
    validation: Share = None,
    test: Share = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="COLUMN", help="Rows of one value stay together, beside groups.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed, another choice.")] = 0,
    captions: Annotated[
        bool, typer.Option("--captions/--no-captions", help="Rows with a caption in common stay together.")
    ] = True,
    again: Annotated[bool, typer.Option("--resplit", help="Share out the rows of data that have splits anew.")] = False,
    json_file: Json = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Share out rows among splits by a hash of their groups, so that no group and no caption stands in two.

    Where every image is a file, what is written is the metadata with a split column: it is DATA itself. Elsewhere it
    holds ids and splits, for DATA?splits=FILE.

    Example: mmcl data split data/products.csv -o data/split.csv --train 0.9 --test 0.1 --by brand
    """
    check_json_file(json_file)
    from mmcl.data.splits.split_files import check_split_path, split_table, write_split_file
    from mmcl.data.splits.splitting import assign_splits

    path = check_split_path(out)
    given = {"train": train, "validation": validation, "test": test}
    shares = {name: share for name, share in given.items() if share} or _DEFAULT_SHARES
    dataset, base = _open_whole(data, path, renamed_columns(columns), images, again=again)
    splits = assign_splits(dataset, shares, by, seed, captions)
    table = split_table(dataset, splits, path.parent)
    write_split_file(path, table)
    usable_as = str(path) if "file_name" in table.column_names else _with_option(base, path)
    about = {
        "data": data, "out": str(path), "usable_as": usable_as,
        "rows": len(dataset), "skipped": len(dataset.skipped), **_count(dataset, splits),
    }  # fmt: skip
    _print_counts(about, make_console())
    write_json(json_file, about)


def _open_whole(
    data: str, out: Path, columns: dict[str, str], images: Path | None, *, again: bool
) -> tuple[ImageTextDataset, str]:
    """All rows of data without splits, or of the one that DATA:SPLIT names; and what their splits' file goes behind."""
    from mmcl.data.sources.loading import load_split, open_data, parse_reference
    from mmcl.data.splits.names import canonical_splits
    from mmcl.errors import ConfigError

    reference = parse_reference(data)
    if out.exists() and Path(reference.base).expanduser().exists() and out.samefile(Path(reference.base).expanduser()):
        raise ConfigError(f"--out {out} is the data itself; write another file")
    opened = open_data(reference.base, columns=columns, images=images)
    own = canonical_splits(opened.splits())
    base = reference.base + ("&" if "?" in reference.base else "?") + ("resplit=true&" if own else "")
    if reference.split is not None:
        return load_split(opened, data, None), base
    if own and not again:
        raise ConfigError(
            f"{data} has splits already ({', '.join(own)}); --resplit shares out the rows of all of them anew, and "
            f"{reference.base}:{own[0]} those of one"
        )
    return opened.whole(), base


def _with_option(base: str, path: Path) -> str:
    return f"{base}splits={str(path).replace('%', '%25').replace('&', '%26')}"


def _count(dataset: ImageTextDataset, splits: np.ndarray) -> dict[str, Any]:
    """Rows, groups and captions of each split, and how many rows of later splits leak from earlier ones."""
    import numpy as np

    from mmcl.data.splits.leaks import count_leaks
    from mmcl.data.splits.names import canonical_splits

    names = canonical_splits([name for name in set(splits.tolist()) if name])
    parts = {name: dataset.select(np.flatnonzero(splits == name), name=name) for name in names}
    counts = {
        name: {
            "rows": len(part),
            "groups": len(np.unique(part.group_ids().numpy())),
            "captions": len(part.table["texts"].combine_chunks().flatten().unique()),
        }
        for name, part in parts.items()
    }
    leaks = {
        f"{names[first]} / {names[second]}": count_leaks(parts[names[first]], parts[names[second]])
        for first in range(len(names))
        for second in range(first + 1, len(names))
    }
    return {"unused": int((splits == "").sum()), "splits": counts, "leaks": leaks}


def _print_counts(about: dict[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{about['out']}: splits of {about['data']}"))
    for heading in ("split", "rows", "share", "groups", "captions"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, counts in about["splits"].items():
        share = f"{100 * counts['rows'] / about['rows']:.1f} %"
        table.add_row(name, f"{counts['rows']:,}", share, f"{counts['groups']:,}", f"{counts['captions']:,}")
    if about["unused"]:
        table.add_row("(none)", f"{about['unused']:,}", f"{100 * about['unused'] / about['rows']:.1f} %", "", "")
    console.print(table)
    leaking = {pair: counts for pair, counts in about["leaks"].items() if counts["either"]}
    for pair, counts in leaking.items():
        console.print(f"{pair}: {counts['captions']} rows share a caption and {counts['groups']} a group", markup=False)
    if not leaking and about["leaks"]:
        console.print("No caption and no group stands in two splits.")
    if about["skipped"]:
        console.print(f"{about['skipped']} rows cannot be used and are left out.")
    console.print(f"Use it as DATA: {about['usable_as']}", markup=False, soft_wrap=True)
