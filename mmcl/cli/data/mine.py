"""`mmcl data mine`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmcl.cli.console import check_json_file, make_console, watch_work, write_json
from mmcl.cli.evaluate.options import BatchSize, Columns, Data, Device, Images, Json, Model, open_data

if TYPE_CHECKING:
    from rich.console import Console


def mine(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.parquet", help="File to write.")],
    captions_per_row: Annotated[int, typer.Option(min=0, help="Nearest wrong captions of each image.")] = 5,
    images_per_row: Annotated[int, typer.Option(min=0, help="Nearest wrong images of each row's captions.")] = 0,
    positive_margin: Annotated[
        float, typer.Option(min=0, max=2, help="Leave out what scores above this share of the row's positive; 0: none.")
    ] = 0.95,
    skip_nearest: Annotated[int, typer.Option(min=0, help="Pass over so many of the nearest.")] = 0,
    near_duplicate: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out what has this cosine to the row's own caption; 0: none.")
    ] = 0.98,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Find the nearest wrong captions and images of every row, as hard negatives for training.

    Rows of one group, equal captions and near-duplicates are left out. Give the file to a recipe as data.negatives,
    with negatives.captions_per_row or negatives.images_per_row. Broken off, the same command goes on.

    Example: mmcl data mine runs/emoji path/to/emoji:train -o hard.parquet
    """
    check_json_file(json_file)
    from mmcl.build import mine_negatives
    from mmcl.data.mining.mined import check_mined_path
    from mmcl.data.mining.offline_mining import MiningPlan
    from mmcl.embedder import load

    plan = MiningPlan(captions_per_row, images_per_row, positive_margin or None, near_duplicate or None, skip_nearest)
    check_mined_path(out)
    dataset = open_data(data, columns=columns, images=images)
    embedder = load(model, device=device)
    console = make_console()
    with watch_work(console) as progress:
        about = mine_negatives(embedder, dataset, out, plan=plan, name=model, batch_size=batch_size, progress=progress)
    _print_counts(about, out, console)
    write_json(json_file, about)


def _print_counts(about: dict[str, Any], out: Path, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{out}: negatives of {about['data']} by {about['model']}"), show_header=False)
    for name, value in {"rows": about["rows"], **about["counts"]}.items():
        table.add_row(name.replace("_", " "), f"{value:,}")
    console.print(table)
